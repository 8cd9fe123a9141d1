"""What the soak trains: the bundled denoiser with dropout, at a steady pace, which counts its updates."""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import functional as F

from train.tasks.base import StepOutput
from train.tasks.denoise import DenoiseTask

__all__ = ["BEAT", "PERIOD", "SoakTask"]

#: Environment variables: a file that holds pid and number of updates; seconds from update to update.
BEAT, PERIOD = "EXPKIT_SOAK_BEAT", "EXPKIT_SOAK_PERIOD"

#: Of the inputs: it draws from torch's global generator, whose state a resume has to bring back.
_DROPOUT = 0.1


class SoakTask(DenoiseTask):
    """Denoise digits. The environment, not the configuration, says at what pace: the numbers are the same at any."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._period = float(os.environ.get(PERIOD, 0.0))
        self._due = 0.0
        self._updates = 0
        self._beat: mmap.mmap | None = None

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        noisy, clean = batch
        if model.training:
            noisy = F.dropout(noisy, _DROPOUT)
            self._keep_pace()
        return super().step(model, (noisy, clean))

    def _keep_pace(self) -> None:
        self._updates += 1
        if self._beat is None and BEAT in os.environ:
            with Path(os.environ[BEAT]).open("r+b") as file:
                self._beat = mmap.mmap(file.fileno(), 16)
        if self._beat is not None:
            struct.pack_into("qq", self._beat, 0, os.getpid(), self._updates)
        now = time.monotonic()
        time.sleep(max(0.0, self._due - now))
        self._due = max(self._due, now) + self._period
