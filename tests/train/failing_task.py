"""A task that does to one of the ranks, once, what can happen to it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.train.helpers import Regression
from train.tasks.base import StepOutput


class FailingTask(Regression):
    """Least squares with dropout, during which rank 1 fails in one update, unless it has before.

    Args:
        how: raises, leaves, killed, stopped or hangs; main: rank 0, which has started it, is killed; "" does not fail.
        at: in which of this process's updates, from 1.
        trace: file for the number of the process and the time at which it fails: while it is there, nothing fails.
    """

    def __init__(self, how: str = "", at: int = 10, trace: str = "") -> None:
        super().__init__(n=67, dropout=0.2)
        self.how, self.at, self.trace = how, at, Path(trace)
        self.updates = 0

    def build_model(self) -> nn.Module:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(self.dropout), nn.Linear(4, 1))

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        if model.training:
            self.updates += 1
            if self.how and self.updates == self.at and os.environ.get("RANK") == "1" and not self.trace.exists():
                self.trace.write_text(json.dumps([os.getpid(), time.time()]))
                self._fail()
        return super().step(model, batch)

    def _fail(self) -> None:
        if self.how == "raises":
            raise RuntimeError("the disk of rank 1 is on fire")
        if self.how == "leaves":
            sys.exit(0)
        if self.how == "hangs":
            time.sleep(1000)
        if self.how == "main":
            os.kill(os.getppid(), signal.SIGKILL)
            return
        os.kill(os.getpid(), signal.SIGKILL if self.how == "killed" else signal.SIGSTOP)
