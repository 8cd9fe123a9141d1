"""Tasks that one process trains, and several do not: what the mistake is must be said in one line."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from tests.train.helpers import Regression
from train.tasks.base import StepOutput


class Mistaken(Regression):
    """Least squares, with a mistake.

    Args:
        how: past (the task calls a method of the model), unused (a layer that takes no part in the loss), half (one
            that takes no part in every second update), data (rank 1 has no training data); "" is right.
    """

    def __init__(self, how: str = "") -> None:
        super().__init__(n=65)
        self.how = how
        self.updates = 0

    def build_model(self) -> nn.Module:
        torch.manual_seed(2)
        layers = nn.ModuleDict({name: nn.Linear(3, 2) for name in ("used", "other")})
        return _Sum(layers, both=self.how not in ("unused", "half"))

    def train_data(self) -> Any:
        if self.how == "data" and os.environ.get("RANK") == "1":
            raise FileNotFoundError("no train.bin on this machine")
        return super().train_data()

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        if self.how == "half" and model.training:
            self.updates += 1
            model.both = self.updates % 2 == 1
        x, y = batch
        found = model.both_of(x) if self.how == "past" else model(x)  # type: ignore[operator]
        found = found.mean(dim=1, keepdim=True)
        return StepOutput((found - y).square().mean(), {}, len(x))


class _Sum(nn.Module):
    """The sum of two layers, or the first of them."""

    def __init__(self, layers: nn.ModuleDict, both: bool) -> None:
        super().__init__()
        self.layers, self.both = layers, both

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.both_of(x) if self.both else self.layers["used"](x)
        return found

    def both_of(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers["used"](x) + self.layers["other"](x)
        return found
