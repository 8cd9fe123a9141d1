"""What all competitors of `loop` train: one network, from the same weights, on the same ready-made batches."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from train.tasks.base import StepOutput, Task

__all__ = ["Batch", "Classify", "Ready", "make_batches", "make_model"]

Batch = tuple[torch.Tensor, torch.Tensor]


class Ready:
    """An iterable of batches without indices, which times who draws them.

    The clock runs from when the batch after the first `warmup` is drawn to when the last one is: what a trainer does
    before its first step and after its last is no step, and one that draws ahead does so at both ends.

    Args:
        batches: what is yielded, in each epoch.
        warmup: steps before the clock starts.
        epochs: as many as will be drawn.

    Attributes:
        beside: microseconds of a step, of the training thread's CPU, in what a runner does beside the update; 0 where
            nobody has looked.
    """

    beside: float = 0.0

    def __init__(self, batches: Sequence[Batch], warmup: int = 0, epochs: int = 1) -> None:
        self._batches = batches
        self._first, self._last = warmup, epochs * len(batches) - 1
        self._drawn = 0
        self._marks: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            if self._drawn in (self._first, self._last):
                self._marks.append((time.perf_counter(), time.thread_time()))
            self._drawn += 1
            yield batch

    def per_step(self) -> tuple[float, float]:
        """Return the microseconds of a step: by the clock, and of this thread's CPU."""
        (wall, cpu), (wall_end, cpu_end) = self._marks
        steps = self._last - self._first
        return (wall_end - wall) / steps * 1e6, (cpu_end - cpu) / steps * 1e6


class Classify(Task):
    """Cross entropy of the network's logits."""

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of a batch of inputs and classes."""
        inputs, classes = batch
        return StepOutput(F.cross_entropy(model(inputs), classes), {}, len(inputs))


def make_batches(steps: int, distinct: int = 64, size: int = 64) -> list[Batch]:
    """Return `steps` batches of `size` samples, of which `distinct` differ: more would measure the memory."""
    generator = torch.Generator().manual_seed(0)
    made = [
        (torch.randn(size, 32, generator=generator), torch.randint(10, (size,), generator=generator))
        for _ in range(distinct)
    ]
    return list(itertools.islice(itertools.cycle(made), steps))


def make_model(width: int = 128) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the network 32-width-width-10, the same every time, and its optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Linear(32, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    model = nn.Sequential(*layers)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
