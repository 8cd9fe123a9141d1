"""The random generators of a process as plain types and tensors, so that a resume draws what would have come."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

__all__ = ["fixed_seed", "rng_state", "seed_all", "set_rng_state"]


def seed_all(seed: int, deterministic: bool = False) -> None:
    """Seed python, numpy and torch; with `deterministic`, let torch use reproducible algorithms only.

    Reproducible means: on the same kind of device, with the same torch and the same number of threads.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)


def rng_state() -> dict[str, Any]:
    """Return the state of python's, numpy's and torch's global generators, of MPS's and of each CUDA device's.

    One of several processes has a CUDA device of its own, and leaves those of the others alone.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *map(float, rest)],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in _gpus()],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Take back what `rng_state` returned. Another number of CUDA devices leaves theirs as they are."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), gauss))
    torch.set_rng_state(state["torch"])
    gpus = _gpus()
    if len(state["cuda"]) == len(gpus):
        for device, of_device in zip(gpus, state["cuda"], strict=True):
            torch.cuda.set_rng_state(of_device, device)
    if state.get("mps") is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def _gpus() -> list[int]:
    """Return the CUDA devices that this process computes on: one of several processes must not touch the others'."""
    if not torch.cuda.is_available():
        return []
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return [torch.cuda.current_device()] if several else [*range(torch.cuda.device_count())]


@contextlib.contextmanager
def fixed_seed(seed: int) -> Iterator[None]:
    """Seed all generators for what is inside; afterwards those that `rng_state` knows are as they were before."""
    before = rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # of all devices
    try:
        yield
    finally:
        set_rng_state(before)
