"""What checkpoints cost: the wait for a save, a load with and without checks, and a step without a save."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.harness import Comparison, Goal, Tables, compare, per_step
from benchmarks.ours import expkit_standard
from benchmarks.problem import Ready, make_batches
from benchmarks.savers import (
    Dcp,
    DcpAsync,
    Lightning,
    LightningAsync,
    Safetensors,
    Saver,
    TorchAtomic,
    TorchPlain,
    TorchSynced,
)
from expkit.checkpoints import CheckpointManager, checkpoint_error, read_checkpoint

__all__ = ["TEXT", "THREADS", "Result", "measure"]

THREADS = "torch on 1 thread"

TEXT = """\
A state of 1.5 GB (a model of 128 million parameters and its Adam moments, float32), on this machine's disk, each
competitor over its own last one; one round before goes by unmeasured, so that buffers and the file system's cache are
warm. *Training waits* is the time until the call returns; *until it is on the disk* is the whole, with an `fsync`, but
for the first line. Loads are from the system's cache; torch.distributed.checkpoint fills tensors that are there
already, the others make new ones. expkit reads every tenth checkpoint back before it counts (`verify_every=10`, as the
runner does): the one of the round before, none of those measured.

What the competitors see to is not the same:

| | never half a checkpoint | on the disk | damage is noticed at load | asynchronous |
|---|---|---|---|---|
| `torch.save` | no: the file is written over | no | no: `torch.load` skips the checksums in the file | no |
| Lightning | yes: another name, then a rename | no (added here) | no: it is `torch.load` | `AsyncCheckpointIO` |
| safetensors | no: the file is written over | no (added here) | only in the header | no |
| torch.distributed.checkpoint | only into a new folder each time | yes | no | yes |
| expkit | yes: another name, then a rename | yes, with its folder | yes: each byte's checksum | yes |

The last table is a runner with the standard parts on a small network, with a checkpoint manager whose checkpoints are
never due and without one; the interval is of the median of the differences within each round, by bootstrap."""

_STEP = "without checkpoints"
_SYNC, _ASYNC = "expkit, synchronous", "expkit, asynchronous"
_SAVED: tuple[type[Saver], ...] = (
    TorchPlain, TorchSynced, TorchAtomic, Lightning, LightningAsync, Safetensors, Dcp, DcpAsync,
)  # fmt: skip
_LOADED: tuple[type[Saver], ...] = (TorchSynced, Safetensors, Dcp)
_LOADS = {
    TorchSynced.name: "`torch.load(weights_only=True)`",
    Safetensors.name: "safetensors `load_file`",
    Dcp.name: "torch.distributed.checkpoint `load`",
}
_VERIFIED = "expkit `load_checkpoint`, every byte checked"


@dataclass(frozen=True)
class Result:
    """What was measured, in seconds, and of a step in microseconds."""

    waiting: Comparison
    whole: Comparison
    loading: Comparison
    stepping: Comparison

    def markdown(self) -> str:
        """Return the tables."""
        low, high = interval(self.stepping)
        remark = f"A step without a save: 95 % interval of the median added cost {low:+.2f} to {high:+.2f} us."
        tables = {"Training waits": self.waiting, "Until it is on the disk": self.whole, "Loading": self.loading}
        return Tables({**tables, "A step": self.stepping}, remark).markdown()


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


def saving(folder: Path, gigabytes: float, rounds: int) -> tuple[Comparison, Comparison]:
    """Return the seconds that the loop waits for a save, and those until it is on the disk."""
    model, optimizer = make_state(gigabytes)
    savers = {kind.name: kind(folder, model, optimizer) for kind in _SAVED}
    managers = {
        name: CheckpointManager(folder / name, keep_last_n=1, verify_every=10, async_save=name == _ASYNC)
        for name in (_SYNC, _ASYNC)
    }
    wholes: dict[str, list[float]] = {}

    def timed(name: str, begin: Callable[[], Callable[[], object]]) -> float:
        began = time.perf_counter()
        finish = begin()
        waited = time.perf_counter() - began
        finish()
        wholes.setdefault(name, []).append(time.perf_counter() - began)
        return waited

    def managed(manager: CheckpointManager) -> Callable[[], object]:
        manager.save_checkpoint(1, model, optimizer, [], {})
        return partial(_saved, manager)

    begins = {name: saver.begin for name, saver in savers.items()}
    begins |= {name: partial(managed, manager) for name, manager in managers.items()}
    competitors = {name: partial(timed, name, begin) for name, begin in begins.items()}
    waiting = compare(competitors, TorchSynced.name, "seconds", rounds, warmup=1)
    return waiting, Comparison("seconds", TorchSynced.name, {name: each[1:] for name, each in wholes.items()})


def _saved(manager: CheckpointManager) -> None:
    if manager.wait() != 1:
        raise RuntimeError("expkit has not saved")


def loading(folder: Path, gigabytes: float, rounds: int) -> Comparison:
    """Return the seconds that a load takes, with and without checks."""
    model, optimizer = make_state(gigabytes)
    CheckpointManager(folder / "load").save_checkpoint(1, model, optimizer, [], {})
    path = folder / "load" / "checkpoints" / "checkpoint_step_1.pt"
    savers = {kind.name: kind(folder / "load", model, optimizer) for kind in _LOADED}
    for saver in savers.values():
        saver.save()

    def timed(load: Callable[[], object]) -> float:
        began = time.perf_counter()
        load()
        return time.perf_counter() - began

    def verified() -> None:
        if (error := checkpoint_error(path)) is not None:
            raise RuntimeError(error)
        read_checkpoint(path)

    competitors = {f"{_LOADS[name]}": partial(timed, saver.load) for name, saver in savers.items()}
    return compare(competitors | {_VERIFIED: lambda: timed(verified)}, _LOADS[TorchSynced.name], "seconds", rounds)


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


def measure(gigabytes: float = 1.5, rounds: int = 3, steps: int = 1000, step_rounds: int = 15) -> Result:
    """Measure everything."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Each with a disk of its own, so to speak: what the one before has written is out of the system's cache.
        with tempfile.TemporaryDirectory() as name:
            stepped = stepping(Path(name), steps, step_rounds)
        with tempfile.TemporaryDirectory() as name:
            waiting, whole = saving(Path(name), gigabytes, rounds)
        with tempfile.TemporaryDirectory() as name:
            return Result(waiting, whole, loading(Path(name), gigabytes, rounds), stepped)
    finally:
        torch.set_num_threads(threads)


def goals(result: Result) -> list[Goal]:
    """Return the goals: to be ahead of what does the same."""
    waiting, whole, loading = (
        {row.name: row for row in table.rows()} for table in (result.waiting, result.whole, result.loading)
    )
    sync, beside, plain = waiting[_SYNC].median, waiting[_ASYNC].median, waiting[TorchSynced.name].median
    atomic, dcp, other = whole[TorchAtomic.name].median, DcpAsync.name, LightningAsync.name
    load, check = loading[_LOADS[TorchSynced.name]].median, loading[_VERIFIED].median
    safe = (
        "it takes a checksum of each tensor, and keeps the old file until the new one is on the disk; "
        f"`torch.save` with the latter takes {atomic:.2f} s"
    )
    return [
        Goal(
            "1.5 GB, asynchronous: training waits no longer than with any other",
            f"{beside:.2f} s; `torch.save` and `fsync` {plain:.2f} s, `async_save` {waiting[dcp].median:.2f} s, "
            f"Lightning's {waiting[other].median:.2f} s",
            beside <= 1.05 * min(row.median for name, row in waiting.items() if name != _ASYNC),
            "all that save beside training copy the state first, and wait for that",
        ),
        Goal(
            "1.5 GB, asynchronous: on the disk before the others'",
            f"{whole[_ASYNC].median:.2f} s; `async_save` {whole[dcp].median:.2f} s, "
            f"Lightning's {whole[other].median:.2f} s",
            whole[_ASYNC].median < min(whole[dcp].median, whole[other].median),
            "all write the same bytes to the same disk",
        ),
        Goal(
            "1.5 GB, synchronous: as `torch.save` and `fsync`",
            f"{sync:.2f} s; {plain:.2f} s, safetensors {waiting[Safetensors.name].median:.2f} s",
            sync <= 1.05 * plain,
            safe,
        ),
        Goal(
            "1.5 GB, verified load: as an unverified one",
            f"{check:.2f} s; `torch.load` {load:.2f} s",
            check <= 1.05 * load,
            "each byte is read once more, for its checksum",
        ),
    ]
