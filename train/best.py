"""What was best so far: which checkpoint to keep, and what to say at the end."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

__all__ = ["Best"]


@dataclass
class Best:
    """The lowest validation loss so far and where it was, and the best value of each validation metric."""

    loss: float = math.inf
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def update(self, step: int, metrics: Mapping[str, float], higher_is_better: Collection[str]) -> bool:
        """Take the metrics of an evaluation. Return whether its loss is the lowest so far. NaN is never the best."""
        for name, value in metrics.items():
            sign = -1 if name.removeprefix("val_") in higher_is_better else 1
            if sign * value < sign * self.metrics.get(name, sign * math.inf):
                self.metrics[name] = value
        is_best = metrics["val_loss"] < self.loss
        if is_best:
            self.loss, self.step = metrics["val_loss"], step
        return is_best
