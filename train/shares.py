"""Which part of a batch is whose, where several processes train on it together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from expkit.dist import Dist
from expkit.errors import ConfigError

__all__ = ["StepBatches", "batch_shares", "in_step", "inside", "is_shared_out", "shares_of"]

_ARRAY = torch.Tensor | np.ndarray


class StepBatches(NamedTuple):
    """The data of one update.

    Attributes:
        pieces: (batch, weight) to accumulate; the weights of all processes average to 1. One of weight 0 is a stand-in:
            processes wait for each other in every piece, and at an uneven end there are not enough samples for all.
        samples: samples of this update over all processes, or None where a loader of one's own does not tell.
        last: whether the epoch ends with it.
    """

    pieces: list[tuple[Any, float]]
    samples: int | None
    last: bool


def shares_of(whole: Sequence[int], dist: Dist, pieces: int = 1) -> list[tuple[list[int], float]]:
    """Return this process's samples of an update, piece by piece, with their weights.

    The weights of all processes average to 1. Each process has as many pieces; one that has too few samples has the
    first of all as a stand-in, of weight 0.

    Args:
        whole: the samples of all processes.
        dist: which process this is, of how many.
        pieces: how many each process accumulates, at most.
    """
    parts = dist.world_size * pieces
    bounds = [len(whole) * part // parts for part in range(parts + 1)]
    sizes = [end - start for start, end in itertools.pairwise(bounds)]
    ranks = [range(rank * pieces, (rank + 1) * pieces) for rank in range(dist.world_size)]
    most = max(sum(sizes[part] > 0 for part in parts) for parts in ranks)
    mine = [
        ([*whole[bounds[part] : bounds[part + 1]]], sizes[part] * dist.world_size / len(whole))
        for part in ranks[dist.rank]
        if sizes[part]
    ]
    return mine + [([*whole[:1]], 0.0)] * (most - len(mine))


def batch_shares(group: Sequence[Any], dist: Dist) -> tuple[list[tuple[Any, float]], int]:
    """Return this process's share of each batch of an update, with its weight, and the samples of all batches.

    Raises:
        ConfigError: it is not clear what the samples of a batch are.
    """
    pieces = []
    samples = 0
    for batch in group:
        size = _size(batch)
        [(indices, weight)] = shares_of(range(size), dist)
        pieces.append((_cut(batch, indices[0], indices[-1] + 1), weight / len(group)))
        samples += size
    return pieces, samples


def in_step(updates: Iterable[StepBatches], dist: Dist) -> Iterator[StepBatches]:
    """Yield `updates` of this process, and its last one as a stand-in until no process has more. Called by all."""
    latest: StepBatches | None = None
    for latest in updates:
        dist.any_bits(1)
        yield latest
    while dist.any_bits(0):
        assert latest is not None  # a loader without a batch is refused
        yield latest._replace(pieces=[(batch, 0.0) for batch, _ in latest.pieces])


def is_shared_out(loader: Any) -> bool:
    """Whether a loader gives each process samples of its own.

    A sampler that knows of processes says so, as torch's DistributedSampler does (`num_replicas`), and so does whatever
    has an attribute `shared_out` that is true.
    """
    parts = (loader, *inside(loader))
    return any(getattr(part, "shared_out", False) or getattr(part, "num_replicas", 1) > 1 for part in parts)


def inside(loader: Any) -> list[Any]:
    """Return what a DataLoader draws from: its data set and its samplers."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = ((loader, "dataset"), (loader, "sampler"), (loader, "batch_sampler"), (batch_sampler, "sampler"))
    return [part for owner, name in owners if (part := getattr(owner, name, None)) is not None]


def _size(batch: Any) -> int:
    """Return how many samples a batch has: the first dimension of its tensors and arrays, the length of its lists."""
    sizes = {*_sizes(batch)}
    if len(sizes) != 1 or 0 in sizes:
        raise ConfigError(
            "the processes cannot share a batch of the task's loader, as it is not clear what its samples are (its "
            f"tensors have {', '.join(map(str, sorted(sizes))) or 'no'} rows): let the task return a data set with a "
            "length, or give each process batches of its own, and the loader `shared_out = True`"
        )
    return sizes.pop()


def _sizes(value: Any) -> Iterator[int]:
    if isinstance(value, _ARRAY):
        if value.ndim:
            yield value.shape[0]
    elif isinstance(value, dict):
        for item in value.values():
            yield from _sizes(item)
    elif isinstance(value, list | tuple):
        if any(isinstance(item, _ARRAY | dict | list | tuple) for item in value):
            for item in value:
                yield from _sizes(item)
        else:
            yield len(value)  # texts, say, one for each sample


def _cut(value: Any, start: int, end: int) -> Any:
    if isinstance(value, _ARRAY):
        return value[start:end] if value.ndim else value
    if isinstance(value, dict):
        return {key: _cut(item, start, end) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if not any(isinstance(item, _ARRAY | dict | list | tuple) for item in value):
            return value[start:end]
        items = (_cut(item, start, end) for item in value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
