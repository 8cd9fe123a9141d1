"""Microseconds per step: a bare PyTorch loop, expkit's Runner, and what people would pick instead."""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.everything import everything_on
from benchmarks.harness import Comparison, Goal, compare
from benchmarks.ours import expkit_off, expkit_standard
from benchmarks.problem import Ready, make_batches, make_model

__all__ = ["BASELINE", "TEXT", "THREADS", "Size", "Tables", "bare", "competitors", "goals", "measure"]

THREADS = "torch on 1 thread"

BASELINE = "bare PyTorch loop"
OFF, STANDARD, ON = "expkit Runner, everything off", "expkit Runner, standard parts", "expkit, everything on"
PEERS = ("Lightning Fabric", "Hugging Face accelerate", "ignite Engine", "Lightning Trainer", "Hugging Face Trainer")
LOOKING = "bare loop with `loss.item()`"

TEXT = """\
What the loop itself costs. All train a network with cross entropy on the same ready-made batches, with the same SGD (lr
0.1, `fused=True` in all), in float32 on one CPU thread, and end with the same weights, bit for bit. A round is one
training of each from fresh weights. The clock runs from when a batch is drawn, after some warm-up, until the last one
is: neither starting nor closing is in it. The first network is 32-128-128-10, with batches of 64 samples; that of the
other tables 32-512-512-10 with batches of 512, whose step takes some 10 ms. The last table is of longer trainings, so
that everything that is on comes by.

*Everything off* is `train.runner.Runner` without anything beside it; as always it keeps every step's loss. *Standard
parts* logs every 50 steps through a recorder to a journal on disk, with status.json and its thread, the event log and
the (empty) delivery and plot hooks, as `python -m train tracker=[]` has them; no checkpoint or evaluation falls into
the time.

*Everything on* is a whole run, as `python -m train` makes it of a configuration (`benchmarks/everything.py`): trackers
wandb (offline) and trackio, started before the clock; `detectors=standard`; asynchronous checkpoints;
`diagnostics=gradients,activations,sparsity,blob`; `plots=training`, drawn by another process; a look at the machine
every second. It has the intervals that `auto` means from 10,000 steps on: it logs, and measures gradients, every 50
steps, and makes a checkpoint and a picture every 1,000. The end of an epoch falls into the time, with the other
diagnostics, an evaluation (of one batch) and the checkpoint of a new best. `diagnostics=svd` is left out: by itself it
takes what share of the time it may, 5 % by default.

The peers do nothing but train (`benchmarks/peers/` says with which settings, and why): Lightning's Trainer is
`barebones`; that of Hugging Face does not log, save or clip; ignite's engine has no handler. The last line of two
tables is another bare loop, which calls `loss.item()` at every step as many loops do, for scale."""


@dataclass(frozen=True)
class Size:
    """One of the tables.

    Attributes:
        title: of the table.
        width: of the network's hidden layers.
        batch: samples of a batch.
        steps: of a training.
        steps_on: of one with everything on, which is longer for what comes only now and then.
        warmup: steps before the clock starts.
        rounds: of all competitors.
        discarded: rounds before these.
        names: of the competitors; all if there is none.
    """

    title: str
    width: int
    batch: int
    steps: int
    steps_on: int
    warmup: int
    rounds: int
    discarded: int = 0
    names: Sequence[str] = ()


_WITHOUT_ON = (BASELINE, OFF, STANDARD, *PEERS, LOOKING)
SMALL = Size("A small step", 128, 64, steps=1600, steps_on=2176, warmup=160, rounds=6, discarded=1)
LARGE = Size("A step of 10 ms", 512, 512, steps=120, steps_on=120, warmup=20, rounds=4, names=_WITHOUT_ON)
#: As long each: what is looked for is less than what one second differs from the next.
LONG = Size(
    "A step of 10 ms, for longer", 512, 512, steps=1024, steps_on=1024, warmup=20, rounds=5, names=(BASELINE, ON)
)


def bare(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Ready, look: bool = False) -> None:
    """Train for one epoch as one would by hand. `look`: `.item()` at every step."""
    model.train()
    for inputs, classes in batches:
        loss = F.cross_entropy(model(inputs), classes)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if look:
            loss.item()


def competitors(size: Size, folder: Path) -> dict[str, Callable[[], tuple[Ready, nn.Module]]]:
    """Return name -> what trains once, and returns the batches, which have the time, and the trained network."""
    # Here, as the other benchmarks do without all these libraries in their process.
    from benchmarks.peers import accelerate, fabric, ignite, lightning, transformers

    def ready() -> Ready:
        return Ready(make_batches(size.steps, size=size.batch), size.warmup)

    def by(fit: Callable[[nn.Module, torch.optim.Optimizer, Ready], None]) -> tuple[Ready, nn.Module]:
        batches, (model, optimizer) = ready(), make_model(size.width)
        fit(model, optimizer, batches)
        return batches, model

    def off() -> tuple[Ready, nn.Module]:
        batches = ready()
        runner = expkit_off(batches, size.width)
        runner.fit()
        return batches, runner.model

    def standard() -> tuple[Ready, nn.Module]:
        batches = ready()
        runner, close = expkit_standard(batches, Path(tempfile.mkdtemp(dir=folder)) / "run", size.width)
        try:
            runner.fit()
        finally:
            close()
        return batches, runner.model

    def on() -> tuple[Ready, nn.Module]:
        task = everything_on(size.width, size.batch, size.steps_on, size.warmup, folder)
        return task.batches, task.model

    return {
        BASELINE: lambda: by(bare),
        OFF: off,
        STANDARD: standard,
        ON: on,
        **{
            name: functools.partial(by, peer.fit)
            for name, peer in zip(PEERS, (fabric, accelerate, ignite, lightning, transformers), strict=True)
        },
        LOOKING: lambda: by(functools.partial(bare, look=True)),
    }


@dataclass(frozen=True)
class Measured:
    """What was measured of one size: by the clock, and of the training thread's CPU.

    `beside` are the microseconds of a step, of that CPU, that the runner takes beside the update with everything on.
    """

    title: str
    wall: Comparison
    cpu: Comparison
    beside: float = 0.0

    @property
    def share_beside(self) -> float:
        """Those of a bare step, in percent."""
        return 100 * self.beside / statistics.median(self.cpu.samples[BASELINE])

    def markdown(self) -> str:
        """Return a table by the clock, and a line on what expkit adds."""
        by_name = {row.name: row for row in self.wall.rows()}
        cpu = {row.name: row for row in self.cpu.rows()}
        bare = by_name[BASELINE]
        lines = [
            f"*{name.partition(', ')[2].capitalize()}* adds {by_name[name].difference:+.1f} us to a step of "
            f"{bare.median:.1f} us ({100 * (by_name[name].ratio - 1):+.1f} %); to the CPU time of the thread that "
            f"trains {cpu[name].difference:+.1f} us ({100 * (cpu[name].ratio - 1):+.1f} %)."
            for name in (OFF, ON)
            if name in by_name
        ]
        if ON in by_name:
            lines.append(
                "What the runner does beside the update (a record, a look at gradients, a checkpoint and so on) takes "
                f"{self.beside:.1f} us of that thread ({self.share_beside:.1f} %)."
            )
        return f"{self.title}:\n\n{self.wall.markdown()}\n\n" + "\n".join(lines)


@dataclass(frozen=True)
class Tables:
    """All sizes, one below the other."""

    sizes: Sequence[Measured]

    def markdown(self) -> str:
        """Return all tables."""
        return "\n\n".join(each.markdown() for each in self.sizes)


def measure(sizes: Sequence[Size] = (SMALL, LARGE, LONG)) -> Tables:
    """Return microseconds per step of each competitor, on one thread of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return Tables([_measure(size, Path(folder)) for size in sizes])
    finally:
        torch.set_num_threads(before)


def goals(result: Tables) -> list[Goal]:
    """Return the goals: little over a bare loop, and less than each peer."""
    small, large, long = ({row.name: row for row in each.wall.rows()} for each in result.sizes)
    cpu = {row.name: row for row in result.sizes[-1].cpu.rows()}[ON]
    least = min((small[name] for name in PEERS), key=lambda row: row.difference)
    added, share = small[OFF].difference, 100 * (long[ON].ratio - 1)
    low, high = (100 * each / long[BASELINE].median for each in (long[ON].difference_q1, long[ON].difference_q3))
    return [
        Goal(
            "everything off: at most 35 us over a bare loop",
            f"{added:+.1f} us",
            added <= 35,
            f"for scale, quartiles of the bare loop itself: {small[BASELINE].q1:.0f} to {small[BASELINE].q3:.0f} us",
        ),
        Goal(
            "everything off: less than each peer adds",
            f"{added:+.1f} us; the least of a peer's: {least.name}, {least.difference:+.1f} us",
            added <= least.difference,
            "it has a part of what a runner does: the loop is the user's own there, without a step's loss kept, "
            "schedules, signals or a place to resume at",
        ),
        Goal(
            "everything on: at most 2 % of a step of 10 ms",
            f"{share:+.1f} % (quartiles {low:+.1f} to {high:+.1f}), of the training thread's CPU time "
            f"{100 * (cpu.ratio - 1):+.1f} %; the runner takes {result.sizes[-1].share_beside:.1f} % beside the update",
            share <= 2,
            "the rest comes with what works beside training, and shares caches and memory with it (trackers, the "
            "process that draws, checkpoints being written), and with the machine: everything off, "
            f"{added:+.0f} us of a small step, shows as {100 * (large[OFF].ratio - 1):+.1f} % of a step of 10 ms",
        ),
    ]


def _measure(size: Size, folder: Path) -> Measured:
    cpu: dict[str, list[float]] = {}
    beside: dict[str, list[float]] = {}

    def turn(name: str, train: Callable[[], tuple[Ready, nn.Module]]) -> float:
        batches, _ = train()
        wall, own = batches.per_step()
        cpu.setdefault(name, []).append(own)
        beside.setdefault(name, []).append(batches.beside)
        return wall

    training = competitors(size, folder)
    turns = {name: functools.partial(turn, name, training[name]) for name in size.names or training}
    wall = compare(turns, BASELINE, "us per step", rounds=size.rounds, warmup=size.discarded, shuffle=0)
    kept = {name: cpu[name][-size.rounds :] for name in turns}  # without the warm-up
    own = statistics.median(beside[ON][-size.rounds :]) if ON in turns else 0.0
    return Measured(size.title, wall, Comparison("us of CPU per step", BASELINE, kept), own)
