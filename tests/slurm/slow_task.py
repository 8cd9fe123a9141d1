"""A task in which everything that a resume must restore has a say in the weights, as slow as a test needs it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from torch import nn

from tests.train.grid_task import GridTask
from train.tasks.base import StepOutput


class SlowTask(GridTask):
    """Takes its time until a file is there, and hangs while another is; what it computes is the same.

    A task of srun for which there is a third, go.fails_in_RANK, breaks.

    Args:
        go: the file; beside it lies the other, `hang`.
        data, workers, batch_size: see `GridTask`.
        seed: of the run.
        failing_seed: that of a run that breaks after a while.
    """

    def __init__(
        self,
        go: str,
        data: str = "dataset",
        workers: int = 0,
        batch_size: int = 8,
        seed: int = 0,
        failing_seed: int | None = None,
    ) -> None:
        super().__init__(data, workers, batch_size)
        self.go, self.fails, self.steps = Path(go), seed == failing_seed, 0
        self.go, self.hang = Path(go), Path(go).with_name("hang")

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        if model.training and not self.go.exists():
            time.sleep(0.2)
        self.steps += model.training
        if self.fails and self.steps == 20:
            raise RuntimeError("the disk with the data has gone away")
        if Path(f"{self.go}.fails_in_{os.environ.get('SLURM_PROCID')}").exists():
            raise OSError("the disk with the data has gone away")
        while self.hang.exists():
            time.sleep(0.1)
        return super().step(model, batch)
