"""What checkpoints cost: the wait for a save, a load with and without checks, and a step without a save."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.harness import Comparison, compare, per_step
from benchmarks.ours import expkit_standard
from benchmarks.problem import Ready, make_batches
from expkit.checkpoints import CheckpointManager, checkpoint_error, read_checkpoint

__all__ = ["TEXT", "THREADS", "measure"]

THREADS = "torch on 1 thread"

TEXT = """\
A state of 1.5 GB (a model of 128 million parameters and its Adam moments, float32), on this machine's disk; each
competitor has a warm-up first, so that its buffers and the file system's are warm. All write to a file of their own and
`fsync` it. *Asynchronous, the loop waits* is the time until `save_checkpoint` returns; *until it is on the disk* is the
whole. A load is verified with every byte's checksum; the file is in the system's cache in both cases. The last table is
a runner with the standard parts on a small network, with a checkpoint manager whose checkpoints are never due and
without one; the interval is of the median of the differences within each round, by bootstrap."""

_SAVE, _LOAD, _STEP = "`torch.save` and `fsync`", "`torch.load(weights_only=True)`", "without checkpoints"


@dataclass(frozen=True)
class _Tables:
    """Several comparisons, one below the other."""

    tables: Sequence[tuple[str, Comparison]]
    remark: str

    def markdown(self) -> str:
        return "\n\n".join([*(f"{title}:\n\n{each.markdown()}" for title, each in self.tables), self.remark])


def make_state(gigabytes: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model and its Adam optimizer with so many GB (1e9 bytes) of state together."""
    layers = max(1, round(gigabytes * 1e9 / (3 * 4 * 2048**2)))
    model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(layers)))
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model, optimizer


def saving(folder: Path, gigabytes: float, rounds: int) -> Comparison:
    """Return the seconds that a save takes, and that the loop waits for it."""
    model, optimizer = make_state(gigabytes)
    beside = CheckpointManager(folder / "async", keep_last_n=1, verify_every=10, async_save=True)
    waiting = CheckpointManager(folder / "sync", keep_last_n=1, verify_every=10)
    whole = 0.0

    def plain() -> float:
        began = time.perf_counter()
        with (folder / "plain.pt").open("wb") as file:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        return time.perf_counter() - began

    def synchronous() -> float:
        began = time.perf_counter()
        assert waiting.save_checkpoint(1, model, optimizer, [], {})
        return time.perf_counter() - began

    def asynchronous() -> float:
        nonlocal whole
        began = time.perf_counter()
        beside.save_checkpoint(1, model, optimizer, [], {})
        waited = time.perf_counter() - began
        assert beside.wait() == 1
        whole = time.perf_counter() - began
        return waited

    competitors: dict[str, Callable[[], float]] = {
        _SAVE: plain,
        "CheckpointManager, synchronous": synchronous,
        "CheckpointManager, asynchronous: the loop waits": asynchronous,
        "CheckpointManager, asynchronous: until it is on the disk": lambda: whole,
    }
    return compare(competitors, _SAVE, "seconds", rounds)


def loading(folder: Path, gigabytes: float, rounds: int) -> Comparison:
    """Return the seconds that a load takes, with and without checks."""
    CheckpointManager(folder / "load").save_checkpoint(1, *make_state(gigabytes), [], {})
    path = folder / "load" / "checkpoints" / "checkpoint_step_1.pt"

    def plain() -> float:
        began = time.perf_counter()
        torch.load(path, weights_only=True)
        return time.perf_counter() - began

    def verified() -> float:
        began = time.perf_counter()
        assert checkpoint_error(path) is None
        read_checkpoint(path)
        return time.perf_counter() - began

    return compare({_LOAD: plain, "`load_checkpoint`, every byte checked": verified}, _LOAD, "seconds", rounds)


def stepping(folder: Path, steps: int, rounds: int) -> Comparison:
    """Return the microseconds of a step at which no checkpoint is due, with and without a checkpoint manager."""
    batches = make_batches(steps)
    number = 0

    def run(saves: bool) -> float:
        nonlocal number
        number += 1
        runner, close = expkit_standard(Ready(batches), folder / f"run_{number}")
        if not saves:
            runner.save = None
        try:
            return per_step(runner.fit, steps)
        finally:
            close()

    competitors = {_STEP: lambda: run(False), "with a CheckpointManager, none due": lambda: run(True)}
    return compare(competitors, _STEP, "us per step", rounds, shuffle=0)


def interval(comparison: Comparison, draws: int = 10_000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median difference of the second competitor to the first."""
    base, other = comparison.samples.values()
    differences = [one - two for one, two in zip(other, base, strict=True)]
    dice = random.Random(0)
    medians = sorted(statistics.median(dice.choices(differences, k=len(differences))) for _ in range(draws))
    return medians[round(0.025 * draws)], medians[round(0.975 * draws) - 1]


def measure(gigabytes: float = 1.5, rounds: int = 7, steps: int = 2000, step_rounds: int = 41) -> _Tables:
    """Measure everything."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            stepped = stepping(folder, steps, step_rounds)
            saved = saving(folder, gigabytes, rounds)
            loaded = loading(folder, gigabytes, rounds)
    finally:
        torch.set_num_threads(threads)
    low, high = interval(stepped)
    remark = f"A step without a save: 95 % interval of the median added cost {low:+.2f} to {high:+.2f} us."
    return _Tables((("Saving", saved), ("Loading", loaded), ("A step", stepped)), remark)
