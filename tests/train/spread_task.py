"""A task for several processes: blocks as FSDP finds them, and samples of which one may be bad in one epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from expkit.sampler import permutation
from tests.train.helpers import Regression
from train.tasks.base import StepOutput

__all__ = ["SpreadTask"]


class Centred(nn.Module):
    """Takes off the running mean, of what came before and of what a rank sees of this batch."""

    mean: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, width) of (n, width)."""
        if self.training:
            self.mean.lerp_(x.detach().mean(dim=0), 0.1)
        return x - self.mean.clone()


class Blocks(nn.Module):
    """Layers in a list; the last has one row, which is on one rank alone. With dropout there is a running mean, too."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, width), nn.Linear(width, width)])
        self.noise = nn.Sequential(Centred(width), nn.Dropout(dropout)) if dropout else nn.Identity()
        self.head = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 1) of inputs, (n, 3)."""
        for block in self.blocks:
            x = self.noise(block(x).tanh())
        found: torch.Tensor = self.head(x)
        return found


class Spoilt(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pairs (input, target); in the first epoch the target of sample `bad` is too large by `error`."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, bad: int, error: float) -> None:
        self.x, self.y, self.bad, self.error = x, y, bad, error
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.x)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        spoilt = index == self.bad and self.epoch == 0
        return self.x[index], self.y[index] + self.error if spoilt else self.y[index]


class SharedOutOfNoLength:
    """Batches of this process alone."""

    shared_out = True

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class SharedOut(SharedOutOfNoLength):
    def __len__(self) -> int:
        return len(self.batches)


class SpreadTask(Regression):
    """Least squares.

    Args:
        n, n_val: samples.
        dropout: of the model; with it there is a running mean, and all three global generators change the loss.
        bad: (step, place in the global batch, by how much) of a sample whose target is too large, for seed 0.
        batch_size: of the global batches, for `bad` and `loader`.
        loader: "own": batches come from a DataLoader of the task's own; "odd": such as nobody can share; "uneven",
            "of no length": each of two processes has its own, one of them more.
    """

    def __init__(
        self,
        n: int = 67,
        n_val: int = 17,
        dropout: float = 0.0,
        bad: Sequence[float] | None = None,
        batch_size: int = 16,
        loader: str = "",
    ) -> None:
        super().__init__(n, n_val, dropout)
        self.bad, self.batch_size, self.loader = bad, batch_size, loader

    def build_model(self) -> nn.Module:
        torch.manual_seed(2)
        return Blocks(8, self.dropout)

    def train_data(self) -> Any:
        index, error = -1, 0.0
        if self.bad is not None:
            step, place, error = self.bad
            order = permutation(len(self.x), 0, 0)
            index = int(order[(int(step) - 1) * self.batch_size + int(place)])
        data = Spoilt(self.x, self.y, index, error)
        if self.loader in ("uneven", "of no length"):
            return self._uneven(self.x, self.y, 40)
        if not self.loader:
            return data
        return DataLoader(data, self.batch_size, shuffle=True, collate_fn=_odd if self.loader == "odd" else None)

    def val_data(self) -> Any:
        if self.loader in ("uneven", "of no length"):
            return self._uneven(self.x[: self.n_val], self.y[: self.n_val], 11)
        return super().val_data()

    def _uneven(self, x: torch.Tensor, y: torch.Tensor, first: int) -> Any:
        """Return batches of 8 of this process's samples, of which rank 0 has the `first` ones."""
        mine = slice(first) if torch.distributed.get_rank() == 0 else slice(first, None)
        batches = [*zip(x[mine].split(8), y[mine].split(8), strict=True)]
        return SharedOut(batches) if self.loader == "uneven" else SharedOutOfNoLength(batches)

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        out = super().step(model, batch)
        if not (model.training and self.dropout):
            return out
        weight = 1 + 0.1 * (random.random() + float(np.random.rand()) + float(torch.rand(())))
        return StepOutput(out.loss * weight, out.sums, out.count)


def _odd(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs, and one target more than there are inputs."""
    x, y = (torch.stack(each) for each in zip(*samples, strict=True))
    return x, torch.cat([y, y[:1]])
