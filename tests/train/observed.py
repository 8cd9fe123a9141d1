"""What is put into a runner to see what it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from expkit.checkpoints import Moment, SavePolicy, save_when
from expkit.diagnostics import Diagnostic
from tests.train.helpers import Regression, Run
from train.runner import Runner


class WeightNorm(Diagnostic):
    """The norm of the first layer, and how often it was asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def measure(self, model: nn.Module) -> dict[str, Any]:
        self.calls += 1
        return {"norm": float(model[0].weight.norm()), "calls": self.calls, "shape": list(model[0].weight.shape)}

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


class Saves(list[tuple[int, bool]]):
    """Keeps (step, is_best) of each checkpoint that would be saved, every so many steps and at the usual moments."""

    def __init__(self, *also: SavePolicy) -> None:
        super().__init__()
        self.policy = save_when(also=also)

    def __call__(self, runner: Runner, moment: Moment) -> None:
        if self.policy.reason(moment) or moment.asked:
            self.append((runner.progress.step, moment.is_best))


class Unsized:
    """Batches from a source that does not say how many there are."""

    def __init__(self, n: int) -> None:
        task = Regression(n)
        self.batches = list(zip(task.x.split(4), task.y.split(4), strict=True))

    def __iter__(self) -> Iterator[Any]:
        yield from self.batches


def steps_with(run: Run, metric: str) -> list[int]:
    """The steps whose record has `metric`."""
    return [record.step for record in run.records if metric in record.metrics]
