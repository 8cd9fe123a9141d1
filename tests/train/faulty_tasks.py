"""Tasks that cannot be resumed exactly, each for a reason of its own: what `expkit verify-resume` must find."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from tests.train.helpers import Regression
from train.tasks.base import StepOutput

RNG = np.random.default_rng(5)


class Augmented(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The samples of `Regression`, with noise from a generator of the module's own."""

    def __init__(self) -> None:
        task = Regression(40)
        self.x, self.y = task.x, task.y

    def __len__(self) -> int:
        return len(self.x)

    def noise(self, index: int) -> torch.Tensor:
        return torch.as_tensor(RNG.normal(size=3), dtype=torch.float32)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index] + self.noise(index), self.y[index]


class Counting(Augmented):
    """Noise that depends on how many samples were drawn before."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0

    def noise(self, index: int) -> torch.Tensor:
        self.drawn += 1
        return torch.full((3,), self.drawn / 100)


class OwnGeneratorTask(Regression):
    def train_data(self) -> Any:
        return Augmented()


class StatefulDataTask(Regression):
    def train_data(self) -> Any:
        return Counting()


class IteratorTask(Regression):
    """Batches from an iterator that goes on from epoch to epoch, and begins again in another process."""

    def train_data(self) -> Any:
        pieces = list(zip(self.x.split(2), self.y.split(2), strict=True))

        class Endless:
            stream = itertools.cycle(pieces)

            def __len__(self) -> int:
                return 7

            def __iter__(self) -> Iterator[Any]:
                return itertools.islice(self.stream, 7)

        return Endless()


class Warmup(nn.Module):
    """Scales by how often it was called, which no state_dict knows."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * min(1.0, self.calls / 100)


class CountingModelTask(Regression):
    def build_model(self) -> nn.Module:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(3, 4), Warmup(), nn.Linear(4, 1))


class ClockTask(Regression):
    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        out = super().step(model, batch)
        return StepOutput(out.loss * (1 + time.time() % 1), out.sums, out.count)


class LateClockTask(ClockTask):
    """The same from the 20th step on."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        self.steps += model.training
        return super().step(model, batch) if self.steps >= 20 else Regression.step(self, model, batch)


class PrivateRandomTask(Regression):
    """Draws from a generator of its own, with a seed, in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = random.Random(0)

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        out = super().step(model, batch)
        return StepOutput(out.loss * self.generator.uniform(0.5, 1.5), out.sums, out.count)


class SometimesDrawsTask(Regression):
    """Draws from a global generator in the first step of training of each process only."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = False

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        if model.training and not self.ready:
            random.random()
            self.ready = True
        return super().step(model, batch)


class LoggingTask(Regression):
    """Logs a mean over all that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        self.seen.append(means["loss"])
        return {**means, "running": sum(self.seen) / len(self.seen)}


class SetOrderTask(Regression):
    """Numbers its words in the order of a set, which differs from process to process."""

    def train_data(self) -> Any:
        words = {word: number for number, word in enumerate({f"word{number}" for number in range(50)})}
        return [(torch.full((3,), words[word] / 50), torch.ones(1)) for word in sorted(words)]


class HiddenMomentum(Optimizer):
    """Momentum in an attribute instead of in `state`."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})
        self.momentum: dict[torch.Tensor, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            old = self.momentum.get(parameter, torch.zeros_like(parameter))
            self.momentum[parameter] = 0.9 * old + parameter.grad
            parameter.sub_(self.momentum[parameter], alpha=self.param_groups[0]["lr"])


class ForgetfulSGD(torch.optim.SGD):
    """Leaves its momentum out of its state_dict."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": {}}
