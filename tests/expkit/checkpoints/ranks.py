"""Several processes with a gloo group, forked from the test's own, so that none of them imports torch again."""

from __future__ import annotations

import faulthandler
import itertools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

_PATIENCE = 60
_numbers = itertools.count()


def run_ranks(size: int, work: Callable[[int], Any], folder: Path, codes: tuple[int, ...] | None = None) -> list[Any]:
    """Run `work(rank)` in `size` processes and return what each gives: plain values and tensors, None of one that died.

    Args:
        size: how many processes.
        work: what each does.
        folder: for files of their own.
        codes: how each ends, a negative number for a signal; None: well.
    """
    place = folder / f"ranks_{next(_numbers)}"
    place.mkdir(parents=True)
    children = [_fork(rank, size, work, place) for rank in range(size)]
    ended = tuple(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    said = "\n".join((place / f"{rank}.err").read_text() for rank in range(size))
    assert ended == (codes or (0,) * size), said
    files = [place / f"{rank}.pt" for rank in range(size)]
    return [torch.load(file, weights_only=True) if file.exists() else None for file in files]


def _fork(rank: int, size: int, work: Callable[[int], Any], place: Path) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(os.open(place / f"{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115 - as long as the process
        faulthandler.dump_traceback_later(_PATIENCE, exit=True, file=sys.stderr)  # where it hangs
        dist.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=size)
        torch.save(work(rank), place / f"{rank}.pt")
        dist.destroy_process_group()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - pytest must never go on in the child
        traceback.print_exc()
    finally:
        os._exit(70)


def make(sharded: bool = True, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model, over all ranks if `sharded`, and its optimizer. No dimension can be divided by 2 or by 4."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 1))
    if sharded:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=0.05)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, *steps: int) -> list[float]:
    """Do updates, on the same batches on all ranks; return the losses before each."""
    losses = []
    for step in steps:
        batch = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
        loss = model(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
