"""A small task in which everything that a resume must restore has a say in the weights."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from expkit import ResumableSampler
from expkit.sampler import mix
from tests.train.helpers import Regression
from train.tasks.base import StepOutput


class Augmented(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples with fresh noise in every epoch, keyed on (seed, epoch, index) as docs/resume.md shows."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, seed: int) -> None:
        self.x, self.y, self.seed = x, y, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.x)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch, index))
        return self.x[index] + 0.1 * torch.randn(3, generator=generator), self.y[index]


class GridTask(Regression):
    """Dropout, batch statistics, and a loss in which all three global generators have a say.

    Args:
        data: who batches: the runner (`dataset`), or a loader of the task's own with a ResumableSampler (`sampler`) or
            one that shuffles by itself (`loader`).
        workers: loading processes of a loader of its own.
        batch_size: of a loader of its own.
    """

    def __init__(self, data: str = "dataset", workers: int = 0, batch_size: int = 8) -> None:
        super().__init__(n=48)
        self.data, self.workers, self.batch_size = data, workers, batch_size

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))

    def train_data(self) -> Any:
        data = Augmented(self.x, self.y, seed=5)
        if self.data == "dataset":
            return data
        how: dict[str, Any] = {"sampler": ResumableSampler(data, seed=3)} if self.data == "sampler" else {}
        return DataLoader(data, self.batch_size, shuffle=None if how else True, num_workers=self.workers, **how)

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        out = super().step(model, batch)
        if not model.training:
            return out
        weight = 1 + 0.1 * (random.random() + float(np.random.rand()) + float(torch.rand(())))
        return StepOutput(out.loss * weight, out.sums, out.count)
