"""A task in which everything that a resume must restore has a say in the weights, as slow as a test needs it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from torch import nn

from tests.train.grid_task import GridTask
from train.tasks.base import StepOutput


class SlowTask(GridTask):
    """Takes its time until a file is there; what it computes is the same.

    Args:
        go: the file.
        data, workers, batch_size: see `GridTask`.
    """

    def __init__(self, go: str, data: str = "dataset", workers: int = 0, batch_size: int = 8) -> None:
        super().__init__(data, workers, batch_size)
        self.go = Path(go)

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        if model.training and not self.go.exists():
            time.sleep(0.2)
        return super().step(model, batch)
