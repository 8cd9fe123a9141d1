"""A task with a bad batch, and a detector of it: what responses are tried on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from expkit.detectors.base import Detector, Event, Severity
from expkit.detectors.svd_switch import SVDSwitch
from expkit.guards import Guard, LimitGuard
from expkit.record import Record
from expkit.svd import FULL, LOW_RANK
from tests.train.helpers import Regression
from train.data import Batches


class Planted(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples of which one is NaN, in one epoch alone."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, epoch: int) -> None:
        self.x, self.y, self.bad = x, y, epoch
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.x)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.x[index]
        return (x * math.nan if index == 0 and self.epoch == self.bad else x), self.y[index]


class TroubledTask(Regression):
    """Least squares on 80 samples, one of which is NaN in the epoch `bad_epoch`, from 0; in none by default."""

    def __init__(self, bad_epoch: int = -1) -> None:
        super().__init__(n=80)
        self.bad_epoch = bad_epoch

    def train_data(self) -> Any:
        return Planted(self.x, self.y, self.bad_epoch)

    def build_model(self) -> nn.Module:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


class LossNan(Detector):
    """Says at which step the loss is NaN."""

    def __init__(self, *, respond: Sequence[str] = ("alert",)) -> None:
        self.respond = tuple(respond)
        self._guard = LimitGuard(on="loss", finite_only=True)

    def guard(self) -> Guard | None:
        return self._guard

    def observe(self, record: Record) -> list[Event]:
        losses = record.series.get("train_loss", ())
        bad = [record.step - place for place, loss in enumerate(reversed(losses)) if math.isnan(loss)]
        return [
            Event(self.name, "nan", Severity.CRITICAL, step, f"the loss of step {step} is NaN") for step in bad[-1:]
        ]


class Without:
    """The batches of another data set, as the runner would draw them, but for those with a NaN."""

    def __init__(self, data: Planted, batch_size: int) -> None:
        self.batches = Batches(data, batch_size)
        self.at = 0

    def set_epoch(self, epoch: int) -> None:
        self.at = epoch

    def __iter__(self) -> Iterator[Any]:
        drawn = (batches.pieces[0][0] for batches in self.batches.epoch(self.at))
        return (batch for batch in drawn if bool(torch.isfinite(batch[0]).all()))


class SparedTask(TroubledTask):
    """The same without the bad batch of 8."""

    def train_data(self) -> Any:
        return Without(super().train_data(), 8)


class BackAndForth(SVDSwitch):
    """Wants the other mode for every layer, as soon as the cool-down is over."""

    def _decide(self, mode: str, found: Mapping[str, float]) -> tuple[str, str] | None:
        return (LOW_RANK, "clobbering") if mode == FULL else (FULL, "recon")
