"""A metric that does not get better any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from expkit.detectors._settings import number, whole
from expkit.detectors.base import Event, Severity
from expkit.detectors.best_model import sign
from expkit.detectors.metric import MetricDetector

__all__ = ["Plateau"]


class Plateau(MetricDetector):
    """Says when `patience` records have not improved on the best by more than `min_delta`; then counts anew.

    Args:
        metric: what is watched, at each record; None: the first of train_loss, loss that is there.
        mode: min, or max for what is better when it is higher.
        min_delta: less is no improvement; in the metric's own unit.
        patience: records that have the metric.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = kind = "plateau"

    def __init__(
        self,
        *,
        metric: str | None = None,
        mode: Literal["min", "max"] = "min",
        min_delta: float = 0.0,
        patience: int = 100,
        warmup: int = 0,
        cooldown: int = 500,
        respond: Sequence[str] = ("alert",),
    ) -> None:
        super().__init__(metric, warmup, cooldown, respond)
        self._sign = sign(self.option, mode)
        self._min_delta = number("detectors.plateau.min_delta", min_delta, at_least=0.0)
        self._patience = whole("detectors.plateau.patience", patience, 1)
        self._best: float | None = None
        self._best_step = 0
        self._records = 0  # since the best, or since an event

    def _take(self, step: int, value: float) -> Event | None:
        if self._best is None or self._sign * (self._best - value) > self._min_delta:
            self._best, self._best_step, self._records = value, step, 0
            return None
        self._records += 1
        if self._records < self._patience or self._silent(step):
            return None
        self._records = 0
        message = f"{self._watched} has not improved on {self._best:.4g} since step {self._best_step}"
        values = {"value": value, "best": self._best, "best_step": self._best_step}
        return self._event(Severity.INFO, step, message, values)

    def _memory(self) -> dict[str, Any]:
        return {"best": self._best, "best_step": self._best_step, "records": self._records}

    def _recall(self, state: Mapping[str, Any]) -> None:
        self._best = state.get("best")
        self._best_step, self._records = state.get("best_step", 0), state.get("records", 0)
