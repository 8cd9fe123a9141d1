"""A gradient norm far above those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from expkit.detectors._settings import ByStep, whole
from expkit.detectors.base import Event, Severity
from expkit.detectors.window import WindowDetector

__all__ = ["GradientSpike"]

#: The least standard deviation, in units of the mean: a norm that does not move at all would have none.
_FLOOR = 1e-4


class GradientSpike(WindowDetector):
    """Alarms where z = (value - mean) / (standard deviation) > threshold, both of the window of accepted values.

    It is OLMo-core's rule (mean + 6 sigma over 128 steps). The standard deviation is taken to be at least 0.0001 mean.

    Args:
        metric: what is watched; None: gradient_norm, which is there if gradients are clipped. Each step's value.
        threshold: the z-score; or first step -> z-score.
        window: accepted values that are kept.
        least: accepted values without which nothing is alarmed.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = kind = "gradient_spike"
    names = ("gradient_norm",)
    can_skip = True

    def __init__(
        self,
        *,
        metric: str | None = None,
        threshold: float | Mapping[int, float] = 6.0,
        window: int = 128,
        least: int = 64,
        warmup: int = 0,
        cooldown: int = 100,
        respond: Sequence[str] = ("snapshot", "alert"),
    ) -> None:
        super().__init__(metric, warmup, cooldown, respond, window, whole("detectors.gradient_spike.least", least, 2))
        self._threshold = ByStep("detectors.gradient_spike.threshold", threshold)

    def _bound(self, step: int) -> float | None:
        mean, deviation = self._scale()
        bound = mean + self._threshold.at(step) * deviation
        return bound if deviation and math.isfinite(bound) else None

    def _alarm(self, step: int, value: float) -> Event:
        mean, deviation = self._scale()
        z = (value - mean) / deviation if deviation else 0.0
        message = f"{self._watched} {value:.4g} is {z:.1f} standard deviations above its mean, {mean:.4g}"
        values = {"value": value, "mean": mean, "deviation": deviation, "z": z}
        return self._event(Severity.WARNING, step, message, values)

    def _scale(self) -> tuple[float, float]:
        # Of the whole window each time: running sums would drift, and keep the trace of a huge value for ever.
        n = len(self._window)
        mean = sum(self._window) / n
        deviation = math.dist(self._window, [mean] * n) / math.sqrt(n)
        return mean, max(deviation, _FLOOR * abs(mean))
