"""The rule that finds the spikes of a language model's loss: so many robust standard deviations above the median."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence

from expkit.detectors._settings import ByStep, number, whole
from expkit.detectors.base import Event, Severity
from expkit.detectors.window import WindowDetector

__all__ = ["LossSpikeRobust", "median_and_mad"]

#: MAD times this is the standard deviation, where values are normally distributed.
_SIGMA = 1.4826
#: The mean distance from the median times this is that too.
_MEAN_SIGMA = 1.2533
#: The least scale, in units of |median|: a loss that does not move at all would have none.
_FLOOR = 1e-4
_LARGEST_EXPONENT = 700.0


class LossSpikeRobust(WindowDetector):
    """Alarms where value > median + threshold * 1.4826 * MAD of the window of accepted values.

    MAD is the median of |value - median| (Hampel 1974); 1.4826 MAD estimates the standard deviation, and neither that
    nor the median moves for a few values that are far out. Where MAD is 0, as more than half of the values are the
    same, 1.2533 times the mean of |value - median| takes its place (Iglewicz and Hoaglin 1993). The scale is at least
    0.0001 |median|; a window of zeros has no limit.

    The loss of a model that has learned nearly all is skewed: mostly next to nothing, and now and then ten times that.
    With `log_threshold` its logarithm must be far out too, log(value) > median + log_threshold * 1.4826 * MAD of the
    logarithms. At 4 that asks less than 8 does of the values, unless they vary by more than a third.

    Args:
        metric: what is watched, each step's value where there is one; None: the first of train_loss, loss.
        threshold: in robust standard deviations; or first step -> threshold.
        log_threshold: the same for logarithms; None: they do not matter. Where a value is not above 0 they do not.
        window: accepted values that are kept.
        least: accepted values without which nothing is alarmed.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = "loss_spike_robust"
    kind = "loss_spike"
    can_skip = True

    def __init__(
        self,
        *,
        metric: str | None = None,
        threshold: float | Mapping[int, float] = 8.0,
        log_threshold: float | None = None,
        window: int = 128,
        least: int = 64,
        warmup: int = 0,
        cooldown: int = 100,
        respond: Sequence[str] = ("snapshot", "alert"),
    ) -> None:
        self._sorted: list[float] = []
        least = whole("detectors.loss_spike_robust.least", least, 2)
        super().__init__(metric, warmup, cooldown, respond, window, least)
        self._threshold = ByStep("detectors.loss_spike_robust.threshold", threshold)
        key = "detectors.loss_spike_robust.log_threshold"
        self._log_threshold = None if log_threshold is None else number(key, log_threshold, above=0.0)

    def _bound(self, step: int) -> float | None:
        median, scale = self._scale()
        if not scale:
            return None
        limit = median + self._threshold.at(step) * scale
        if self._log_threshold is None or self._sorted[0] <= 0:
            return limit
        median, mad = median_and_mad([math.log(value) for value in self._sorted])
        return max(limit, math.exp(min(median + self._log_threshold * _SIGMA * mad, _LARGEST_EXPONENT)))

    def _ordinary(self, step: int, value: float) -> bool:
        # Half of the values are between the quartiles, so MAD is at least the distance to the nearer one.
        ordered, n = self._sorted, len(self._sorted)
        if n < self._least:
            return False
        median, inside = ordered[(n - 1) // 2], n // 4 + 1
        mad = min(median - ordered[inside], ordered[n - 1 - inside] - ordered[n // 2])
        return value <= median + self._threshold.at(step) * _SIGMA * mad

    def _alarm(self, step: int, value: float) -> Event:
        median, scale = self._scale()
        deviations = (value - median) / scale if scale else 0.0
        values = {"value": value, "median": median, "sigma": scale, "deviations": deviations}
        message = (
            f"{self._watched} {value:.4g} is {deviations:.1f} robust standard deviations above the median, {median:.4g}"
        )
        if not median:
            return self._event(Severity.WARNING, step, message, values)
        values["percent"] = percent = 100 * (value - median) / abs(median)
        return self._event(Severity.WARNING, step, message, values, f"{self.kind}_{percent:.1f}pct")

    def _scale(self) -> tuple[float, float]:
        median, mad = median_and_mad(self._sorted)
        if not mad:  # more than half of them are the same
            mean = sum(abs(value - median) for value in self._sorted) / len(self._sorted)
            return median, max(_MEAN_SIGMA * mean, _FLOOR * abs(median))
        return median, max(_SIGMA * mad, _FLOOR * abs(median))

    def _accept(self, value: float) -> None:
        if len(self._window) == self._window.maxlen:
            del self._sorted[bisect_left(self._sorted, self._window[0])]
        insort(self._sorted, value)
        super()._accept(value)

    def _restart(self, values: Iterable[float]) -> None:
        self._sorted.clear()
        super()._restart(values)


def median_and_mad(values: Sequence[float]) -> tuple[float, float]:
    """Return the median of sorted values, and the median of their distances from it, in O(log n)."""
    n = len(values)
    median = (values[(n - 1) // 2] + values[n // 2]) / 2
    # The n // 2 + 1 values nearest to the median lie side by side: find where they begin.
    count = n // 2 + 1
    low, high = 0, n - count
    while low < high:
        middle = (low + high) // 2
        if median - values[middle] > values[middle + count] - median:
            low = middle + 1
        else:
            high = middle
    first, last = median - values[low], values[low + count - 1] - median
    if n % 2:
        return median, max(first, last)
    # For an even number the median is between the farthest of these and the next: without it.
    if first > last:
        return median, (first + max(median - values[low + 1], last)) / 2
    return median, (last + max(first, values[low + count - 2] - median)) / 2
