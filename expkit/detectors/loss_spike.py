"""The rule that people know: the loss is so many percent above the mean of the last few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expkit.detectors._settings import ByStep, whole
from expkit.detectors.base import Event, Severity
from expkit.detectors.window import WindowDetector

__all__ = ["LossSpike"]


class LossSpike(WindowDetector):
    """Alarms where value > mean + threshold |mean|, the mean of the last `recent` accepted values of the window.

    Args:
        metric: what is watched, each step's value where there is one; None: the first of train_loss, loss.
        threshold: 0.3 means 30 % above the mean; or first step -> threshold.
        window: accepted values that are kept.
        recent: how many of them, the newest, the mean is of.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = kind = "loss_spike"
    can_skip = True

    def __init__(
        self,
        *,
        metric: str | None = None,
        threshold: float | Mapping[int, float] = 0.3,
        window: int = 10,
        recent: int = 5,
        warmup: int = 0,
        cooldown: int = 500,
        respond: Sequence[str] = ("snapshot", "alert"),
    ) -> None:
        window = whole("detectors.loss_spike.window", window, 1)
        self._recent = min(whole("detectors.loss_spike.recent", recent, 1), window)
        super().__init__(metric, warmup, cooldown, respond, window, self._recent)
        self._threshold = ByStep("detectors.loss_spike.threshold", threshold)

    def _bound(self, step: int) -> float | None:
        mean = self._mean(self._recent)
        return mean + self._threshold.at(step) * abs(mean) if mean else None

    def _alarm(self, step: int, value: float) -> Event:
        mean = self._mean(self._recent)
        values = {"value": value, "mean": mean}
        if not mean:  # a guard's limit is somewhat older than the mean
            return self._event(Severity.WARNING, step, f"{self._watched} jumped from 0 to {value:.4g}", values)
        values["percent"] = percent = 100 * (value - mean) / abs(mean)
        message = (
            f"{self._watched} {value:.4g} is {percent:.1f} % above the mean of the last {self._recent}, {mean:.4g}"
        )
        return self._event(Severity.WARNING, step, message, values, f"{self.kind}_{percent:.1f}pct")
