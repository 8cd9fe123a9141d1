"""A new best: worth keeping."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from expkit.detectors._settings import number
from expkit.detectors.base import Event, Severity
from expkit.detectors.metric import MetricDetector
from expkit.errors import ConfigError

__all__ = ["BestModel"]


class BestModel(MetricDetector):
    """Says when a metric is better, by a share of `min_improvement`, than the last best that was said.

    The first value is the one to beat. A best inside the cool-down is said when that ends: the best of them all then,
    in the event of that record; `best_step` says when it was.

    Args:
        metric: what is watched, at each record; None: the first of train_loss, loss that is there.
        mode: min, or max for what is better when it is higher.
        min_improvement: 0.02 means 2 % of the last one.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = kind = "best_model"

    def __init__(
        self,
        *,
        metric: str | None = None,
        mode: Literal["min", "max"] = "min",
        min_improvement: float = 0.02,
        warmup: int = 0,
        cooldown: int = 500,
        respond: Sequence[str] = ("snapshot",),
    ) -> None:
        super().__init__(metric, warmup, cooldown, respond)
        self._sign = sign(self.option, mode)
        self._share = number("detectors.best_model.min_improvement", min_improvement, at_least=0.0)
        self._to_beat: float | None = None
        self._best: tuple[int, float] | None = None  # the best since that was said, and its step

    def _take(self, step: int, value: float) -> Event | None:
        if self._to_beat is None:
            self._to_beat = value
            return None
        if self._best is None or self._sign * value < self._sign * self._best[1]:
            self._best = step, value
        best_step, best = self._best
        if self._silent(step) or self._sign * (self._to_beat - best) <= self._share * abs(self._to_beat):
            return None
        when = "" if best_step == step else f" at step {best_step}"
        message = f"{self._watched} reached {best:.4f}{when}, the best so far (was {self._to_beat:.4f})"
        values = {"value": best, "best_step": best_step, "previous": self._to_beat}
        self._to_beat, self._best = best, None
        name = "loss" if (self._watched or "").endswith("loss") else re.sub(r"[^\w.-]+", "_", self._watched or "")
        return self._event(Severity.INFO, step, message, values, f"{self.kind}_{name}_{best:.4f}")

    def _memory(self) -> dict[str, Any]:
        return {"to_beat": self._to_beat, "best": self._best and list(self._best)}

    def _recall(self, state: Mapping[str, Any]) -> None:
        self._to_beat = state.get("to_beat")
        best = state.get("best")
        self._best = None if best is None else (best[0], best[1])


def sign(option: str, mode: str) -> int:
    """Return 1 for mode min, -1 for max: what makes lower better.

    Raises:
        ConfigError: it is neither.
    """
    if mode not in ("min", "max"):
        raise ConfigError(f"detectors.{option}.mode={mode}: choose min or max")
    return 1 if mode == "min" else -1
