"""An accuracy so many points below the mean of the last few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expkit.detectors._settings import ByStep, whole
from expkit.detectors.base import Event, Severity
from expkit.detectors.window import WindowDetector

__all__ = ["AccuracyDrop"]


class AccuracyDrop(WindowDetector):
    """Alarms where value < mean - threshold, the mean of the last `recent` accepted values of the window.

    Args:
        metric: what is watched; None: the first of val_accuracy, accuracy that is there.
        threshold: in the metric's own unit, percentage points for those; or first step -> threshold.
        window: accepted values that are kept.
        recent: how many of them, the newest, the mean is of.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = kind = "accuracy_drop"
    names = ("val_accuracy", "accuracy")

    def __init__(
        self,
        *,
        metric: str | None = None,
        threshold: float | Mapping[int, float] = 10.0,
        window: int = 10,
        recent: int = 5,
        warmup: int = 0,
        cooldown: int = 500,
        respond: Sequence[str] = ("snapshot", "alert"),
    ) -> None:
        window = whole("detectors.accuracy_drop.window", window, 1)
        self._recent = min(whole("detectors.accuracy_drop.recent", recent, 1), window)
        super().__init__(metric, warmup, cooldown, respond, window, self._recent)
        self._threshold = ByStep("detectors.accuracy_drop.threshold", threshold)

    def _bound(self, step: int) -> float | None:
        return self._mean(self._recent) - self._threshold.at(step)

    def _beyond(self, value: float, limit: float) -> bool:
        return value < limit

    def _alarm(self, step: int, value: float) -> Event:
        mean = self._mean(self._recent)
        points = mean - value
        message = f"{self._watched} {value:.4g} is {points:.1f} below the mean of the last {self._recent}, {mean:.4g}"
        values = {"value": value, "mean": mean, "points": points}
        return self._event(Severity.WARNING, step, message, values, f"{self.kind}_{points:.1f}pct")
