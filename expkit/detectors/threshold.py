"""Any metric above, or below, a value for some records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from expkit.detectors._settings import ByStep, whole
from expkit.detectors.base import Event, Severity
from expkit.detectors.metric import MetricDetector
from expkit.errors import ConfigError

__all__ = ["Threshold"]


class Threshold(MetricDetector):
    """Alarms when a metric has been beyond a threshold at `records` records in a row.

    Args:
        metric: what is watched, at each record; None: the first of train_loss, loss that is there.
        threshold: in the metric's own unit; or first step -> threshold.
        when: above or below.
        records: so many that have the metric, in a row.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = kind = "threshold"

    def __init__(
        self,
        *,
        metric: str | None = None,
        threshold: float | Mapping[int, float] = 100.0,
        when: Literal["above", "below"] = "above",
        records: int = 3,
        warmup: int = 0,
        cooldown: int = 500,
        respond: Sequence[str] = ("snapshot", "alert"),
    ) -> None:
        super().__init__(metric, warmup, cooldown, respond)
        if when not in ("above", "below"):
            raise ConfigError(f"detectors.{self.option}.when={when}: choose above or below")
        self._threshold = ByStep(f"detectors.{self.option}.threshold", threshold, above=None)
        self._when = when
        self._records = whole(f"detectors.{self.option}.records", records, 1)
        self._count = 0

    def _take(self, step: int, value: float) -> Event | None:
        threshold = self._threshold.at(step)
        beyond = value > threshold if self._when == "above" else value < threshold
        self._count = self._count + 1 if beyond else 0
        if self._count < self._records or self._silent(step):
            return None
        message = f"{self._watched} {value:.4g} is {self._when} {threshold:g}, at {self._count} record(s) in a row"
        values = {"value": value, "threshold": threshold, "records": self._count}
        return self._event(Severity.WARNING, step, message, values)

    def _memory(self) -> dict[str, Any]:
        return {"count": self._count}

    def _recall(self, state: Mapping[str, Any]) -> None:
        self._count = state.get("count", 0)
