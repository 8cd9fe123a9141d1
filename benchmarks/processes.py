"""Microseconds per step of several processes: expkit's DDP and FSDP against bare loops that do the same mathematics."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.harness import Comparison, compare, per_step
from benchmarks.problem import Batch, Classify, Ready, make_batches
from expkit.dist import Dist, Place
from expkit.dist.children import Children
from expkit.dist.group import join
from train.config.trainer import TrainerConfig
from train.data import Batches
from train.runner import Runner
from train.strategies.base import Strategy
from train.strategies.ddp import Replicated
from train.strategies.fsdp import Sharded
from train.update import Update

__all__ = ["BASELINE", "TEXT", "THREADS", "measure"]

THREADS = "torch on 1 thread in each process"

BASELINE = "bare DDP loop"

TEXT = """\
What expkit adds to a step of several processes. Two processes of one machine (gloo, one thread each) train a
256-1024-1024-10 network on the same ready-made global batches of 64, 32 samples each, with the same SGD (lr 0.1), in
float32. The bare loops call `DistributedDataParallel`, or `fully_shard` on the whole network, and nothing else. The
runner of expkit has everything off: as always it keeps every step's loss, tells the watch where it is, asks the other
ranks about once a second what is to be done, and compares their weights once. Building the networks is not timed."""

_SIZE, _RANKS = 64, 2
_OVER = ""


def measure(steps: int = 120, rounds: int = 5) -> Comparison:
    """Return microseconds per step of each competitor, as rank 0 sees them."""
    command = [sys.executable, "-c", "from benchmarks.processes import follow; follow()"]
    with Children(_RANKS, command) as children, join(children.place, 600.0, dead=children.dead) as dist:
        competitors = _competitors(dist, dist.broadcast(steps))

        def together(name: str) -> float:
            dist.broadcast(name)
            return competitors[name]()

        try:
            turns = {name: functools.partial(together, name) for name in competitors}
            return compare(turns, BASELINE, "us per step", rounds=rounds, shuffle=0)
        finally:
            dist.broadcast(_OVER)


def follow() -> None:
    """Be the other rank."""
    place = Place.current()
    assert place is not None
    with join(place) as dist:
        competitors = _competitors(dist, dist.broadcast(None))
        while name := dist.broadcast(None):
            competitors[name]()


def _competitors(dist: Dist, steps: int) -> Mapping[str, Callable[[], float]]:
    torch.set_num_threads(1)
    batches = [(torch.randn(_SIZE, 256), classes) for _, classes in make_batches(16, size=_SIZE)]
    batches = [batches[number % len(batches)] for number in range(steps)]
    mine = slice(dist.rank * _SIZE // _RANKS, (dist.rank + 1) * _SIZE // _RANKS)
    shares = [(inputs[mine], classes[mine]) for inputs, classes in batches]
    return {
        BASELINE: lambda: _bare(shares, DistributedDataParallel),
        "expkit Runner, ddp, everything off": lambda: _runner(batches, Replicated(dist)),
        "bare FSDP2 loop": lambda: _bare(shares, _sharded),
        "expkit Runner, fsdp, everything off": lambda: _runner(batches, Sharded(dist, "cpu", _model)),
    }


def _model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))


def _sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model)
    return model


def _bare(batches: list[Batch], wrap: Callable[[nn.Module], nn.Module]) -> float:
    model = wrap(_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fit() -> None:
        for inputs, classes in batches:
            F.cross_entropy(model(inputs), classes).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return per_step(fit, len(batches))


def _runner(batches: list[Batch], strategy: Strategy) -> float:
    model = strategy.prepare(_model())
    strategy.trained(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = TrainerConfig(max_epochs=1, log_interval=len(batches), device="cpu")
    update = Update(optimizer, None, torch.device("cpu"), strategy=strategy)
    data = Batches(Ready(batches), batch_size=_SIZE, dist=strategy.dist)
    return per_step(Runner(Classify(), model, update, config, data, dist=strategy.dist).fit, len(batches))
