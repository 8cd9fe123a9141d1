"""What was best so far: which checkpoint to keep, and what to say at the end."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

__all__ = ["Best"]


class Best:
    """The best value of the monitored metric and where it was, and the best value of each validation metric.

    Args:
        monitor: the metric that makes a checkpoint the best.
        mode: whether a low or a high value of it is good.
        higher_is_better: other validation metrics, without `val_`, of which a high value is good.

    Attributes:
        value: of the monitored metric; None before its first one.
        step: where that was, or 0.
        metrics: name -> best value.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        mode: Literal["min", "max"] = "min",
        higher_is_better: Collection[str] = (),
    ) -> None:
        self.monitor, self.mode = monitor, mode
        self._high = {f"val_{name}" for name in higher_is_better} - {monitor} | ({monitor} if mode == "max" else set())
        self.value: float | None = None
        self.step = 0
        self.metrics: dict[str, float] = {}

    def update(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Take the metrics of a step. Return whether the monitored one is the best so far. NaN is never the best."""
        for name, value in metrics.items():
            if name == self.monitor or name.startswith("val_"):
                sign = -1 if name in self._high else 1
                if sign * value < sign * self.metrics.get(name, sign * math.inf):
                    self.metrics[name] = value
        best = self.metrics.get(self.monitor)
        if self.monitor not in metrics or best is None or best == self.value:
            return False
        self.value, self.step = best, step
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what was best."""
        return {"monitor": self.monitor, "step": self.step, "metrics": dict(self.metrics)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; of another metric than was monitored then, the step is not known."""
        self.metrics = dict(state["metrics"])
        self.value = self.metrics.get(self.monitor)
        self.step = state["step"] if state.get("monitor", "val_loss") == self.monitor else 0
