"""Microseconds per step: expkit's Runner against a bare PyTorch loop that does the same mathematics.

All competitors train the same network (32-128-128-10, ReLU) from the same weights with the same optimizer (fused SGD,
lr 0.1) on the same ready-made batches of 64, on one CPU thread. Making batches is no part of it.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.harness import Comparison, compare, per_step
from expkit.checkpoints import CheckpointManager, save_when
from expkit.events import EventLog
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.recorder import Recorder
from expkit.status import StatusFile
from expkit.trackers import Delivery
from train.config.trainer import TrainerConfig
from train.data import Batches
from train.pictures import Pictures
from train.runner import Runner
from train.saving import Saver
from train.tasks.base import StepOutput, Task
from train.update import Update

__all__ = ["BASELINE", "TEXT", "THREADS", "Batch", "bare", "expkit_off", "expkit_standard", "make_batches", "measure"]

Batch = tuple[torch.Tensor, torch.Tensor]

THREADS = "torch on 1 thread"

BASELINE = "bare PyTorch loop"

TEXT = """\
What the loop itself costs. All three train a 32-128-128-10 network with cross entropy on the same ready-made batches of
64, with the same SGD (lr 0.1, `fused=True` in all), in float32 on one CPU thread; they end with the same weights, bit
for bit. *Everything off* is `train.runner.Runner` without anything beside it; as always it keeps every step's loss.
*Standard parts* logs every 50 steps through a recorder to a journal on disk, with status.json and its thread, the event
log and the (empty) delivery and plot hooks, as `python -m train tracker=[]` has them; no checkpoint or evaluation falls
into the time. Each round is one training from fresh weights; building it is not timed. The last line is another bare
loop, which calls `loss.item()` at every step as many loops do, for scale."""


class Ready:
    """An iterable of batches without indices: the Runner takes it for a data loader and passes them on."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


class Classify(Task):
    """Cross entropy of the network's logits."""

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of a batch of inputs and classes."""
        inputs, classes = batch
        return StepOutput(F.cross_entropy(model(inputs), classes), {}, len(inputs))


def make_batches(steps: int, distinct: int = 64, size: int = 64) -> list[Batch]:
    """Return `steps` batches, of which `distinct` differ: more would measure the memory."""
    generator = torch.Generator().manual_seed(0)
    made = [
        (torch.randn(size, 32, generator=generator), torch.randint(10, (size,), generator=generator))
        for _ in range(distinct)
    ]
    return list(itertools.islice(itertools.cycle(made), steps))


def make_model() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the network, the same every time, and its optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, fused=True)


def bare(batches: list[Batch], look: bool = False) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """Return a network, and the loop that trains it and returns the last loss. `look`: `.item()` at every step."""
    model, optimizer = make_model()

    def fit() -> torch.Tensor:
        model.train()
        for inputs, classes in batches:
            loss = F.cross_entropy(model(inputs), classes)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if look:
                loss.item()
        return loss

    return model, fit


def expkit_off(batches: list[Batch]) -> Runner:
    """Return a runner with everything off: it logs once, at its end."""
    model, optimizer = make_model()
    config = TrainerConfig(max_epochs=1, log_interval=len(batches), device="cpu")
    update = Update(optimizer, None, torch.device("cpu"))
    return Runner(Classify(), model, update, config, Batches(Ready(batches), batch_size=64))


def expkit_standard(batches: list[Batch], folder: Path) -> tuple[Runner, Callable[[], None]]:
    """Return a runner with what `python -m train tracker=[]` puts beside it, and what closes that.

    Args:
        folder: of the run; made.
    """
    files = RunDir(folder)
    files.metrics.parent.mkdir(parents=True)
    model, optimizer = make_model()
    config = TrainerConfig(max_epochs=1, log_interval=50, device="cpu")
    trackers = Delivery({})
    journal = Journal(files.metrics)
    never = CheckpointManager(files.root, save_interval=10 * len(batches), save=save_when(at_end=False))
    events = EventLog(files.events, {}, trackers.alert)
    runner = Runner(
        Classify(),
        model,
        Update(optimizer, None, torch.device("cpu")),
        config,
        Batches(Ready(batches), batch_size=64),
        recorder=Recorder([journal.write, trackers.log]),
        save=Saver(never, {}, journal, {}),
        plot=Pictures({}, files, "benchmark", len(batches), trackers),
        on_record=(events.observe,),
    )
    status = StatusFile(files.status, lambda: {"step": runner.progress.step, "metrics": dict(runner.recorder.latest)})
    status.start()

    def close() -> None:
        status.stop("finished")
        events.close()
        journal.close()

    return runner, close


def measure(steps: int = 2000, rounds: int = 41) -> Comparison:
    """Return microseconds per step of each competitor, on one thread of torch."""
    batches = make_batches(steps)

    def plain(look: bool) -> float:
        _, fit = bare(batches, look)
        return per_step(fit, steps)

    def off() -> float:
        return per_step(expkit_off(batches).fit, steps)

    def standard() -> float:
        with tempfile.TemporaryDirectory() as folder:
            runner, close = expkit_standard(batches, Path(folder) / "run")
            try:
                return per_step(runner.fit, steps)
            finally:
                close()

    competitors: dict[str, Callable[[], float]] = {
        BASELINE: functools.partial(plain, False),
        "expkit Runner, everything off": off,
        "expkit Runner, standard parts": standard,
        "bare loop with `loss.item()`": functools.partial(plain, True),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compare(competitors, BASELINE, "us per step", rounds=rounds, shuffle=0)
    finally:
        torch.set_num_threads(before)
