"""How many threads of the CPU a process computes with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from expkit.dist import Dist

__all__ = ["compute_threads"]


@contextmanager
def compute_threads(number: int | None, dist: Dist) -> Iterator[None]:
    """Compute with so many threads; the process's other work, the next job of a sweep say, as before.

    Args:
        number: of threads; None: as many as torch takes by itself, where several processes share a machine their part
            of its CPUs, unless OMP_NUM_THREADS says otherwise.
        dist: the ranks.
    """
    before = torch.get_num_threads()
    if number is None and dist.local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        number = max(1, len(os.sched_getaffinity(0)) // dist.local_size)
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
