"""A task and parts that look at the whole model, and say what they have seen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expkit.plots import NOTHING, Plot, PlotContext, PlotSource
from expkit.record import Record
from expkit.trackers import Tracker
from tests.train.helpers import Regression
from train.tasks.base import StepOutput


class _Pair(nn.Module):
    """Two layers, of which every part is asked for: it has no `ModuleList`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 41), nn.Linear(41, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.decoder(self.encoder(x).relu())
        return found


class WatchedTask(Regression):
    """Learn to give back vectors of length 3. The task itself looks at the model at log steps and at the end."""

    def __init__(self) -> None:
        super().__init__(n=67)

    def build_model(self) -> nn.Module:
        torch.manual_seed(2)
        return _Pair()

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        x, _ = batch
        return StepOutput((model(x) - x).square().mean(), {}, len(x))

    def model_metrics(self, model: nn.Module) -> dict[str, float]:
        return {f"size_{name}": parameter.abs().sum().item() for name, parameter in model.named_parameters()}

    def samples(self, model: nn.Module) -> list[Any]:
        return [round(value, 3) for value in model(self.x[:2]).flatten().tolist()]


class NotingPlot(Plot):
    """Draws nothing, and writes down what it was shown: a line of JSON each time.

    Args:
        file: to write to.
        viz_interval: steps.
    """

    def __init__(self, file: str = "", viz_interval: int = 3) -> None:
        super().__init__(viz_interval=viz_interval)
        self.file = Path(file)

    def before_update(self, model: nn.Module) -> None:
        found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        self._note("gradients", found)

    def collect(self, source: PlotSource) -> Any:
        self._note("weights", dict(source.model.named_parameters()))
        return NOTHING

    def draw(self, context: PlotContext, collected: Any) -> list[Path]:
        raise AssertionError("there is nothing to draw")

    def _note(self, what: str, tensors: Mapping[str, torch.Tensor]) -> None:
        sizes = {name: [*tensor.shape, tensor.square().sum().item()] for name, tensor in tensors.items()}
        with self.file.open("a") as file:
            file.write(json.dumps({what: sizes}) + "\n")


class NotingTracker(Tracker):
    """Writes down in which process it was made, and how many records it got.

    Args:
        file: to write to.
        api_key: of nothing.
    """

    def __init__(self, file: str = "", api_key: str = "") -> None:
        self.file, self.key = Path(file), api_key
        self._note(f"made in {os.getpid()}")

    def log(self, record: Record) -> None:
        self._note(f"step {record.step}")

    def _note(self, text: str) -> None:
        with self.file.open("a") as file:
            file.write(f"{text}\n")
