"""A task whose ranks have loaders of unequal lengths, a norm, and a save policy that one rank alone obeys."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch import nn

from expkit.checkpoints.saving import Moment, SavePolicy
from tests.train.helpers import Regression


class Shard:
    """Batches of this rank: 5 on the first, 7 on the second."""

    shared_out = True

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.batches = 5 + 2 * self.rank

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(self.rank)
        for _ in range(self.batches):
            x = torch.randn(4, 3, generator=generator)
            yield x, x.sum(dim=1, keepdim=True)


class KnownShard(Shard):
    """One that tells its length."""

    def __len__(self) -> int:
        return self.batches


class UnevenTask(Regression):
    """Least squares on batches of which the ranks have unequal numbers."""

    def __init__(self, known: bool = False, val: bool = False) -> None:
        super().__init__()
        self.known, self.val = known, val

    def build_model(self) -> nn.Module:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def train_data(self) -> Shard:  # type: ignore[override]
        return KnownShard() if self.known else Shard()

    def val_data(self) -> object:  # type: ignore[override]
        return Shard() if self.val else super().val_data()


class FirstRank(SavePolicy):
    """Wants every seventh step, on rank 0 only: as one that goes by a clock would."""

    def reason(self, moment: Moment) -> str | None:
        return "mine" if os.environ.get("RANK", "0") == "0" and moment.progress.step % 7 == 0 else None
