"""What a DataLoader of ours does in its loading processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import default_collate, get_worker_info

from expkit.rng import seed_all
from expkit.sampler import mix

__all__ = ["Fetch", "IgnoreSignals", "as_it_is"]


class Fetch:
    """Makes `dataset[indices]` return a whole batch.

    In a loading process, whatever the dataset draws from the global generators is a function of (seed, epoch, batch):
    they are seeded anew for each. In the main process they go on, and a checkpoint holds their state.
    """

    def __init__(self, data: Any, key: tuple[int, int]) -> None:
        self.data = data
        self.key = key

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, indices: Sequence[int]) -> Any:
        if get_worker_info() is not None:
            seed_all(mix(*self.key, 2, indices[0]))
        if hasattr(self.data, "batch"):
            return self.data.batch(indices)
        if hasattr(self.data, "__getitems__"):
            return default_collate(self.data.__getitems__(indices))
        return default_collate([self.data[index] for index in indices])


def as_it_is(batch: Any) -> Any:
    """Return a batch that is one already: a collate_fn."""
    return batch


class IgnoreSignals:
    """A worker_init_fn that lets a loading process ignore what a scheduler sends to the whole group.

    Workers that die take the main process along before it can save.

    Args:
        others: a worker_init_fn to call besides.
    """

    def __init__(self, others: Callable[[int], object] | None = None) -> None:
        self.others = others

    def __call__(self, worker: int) -> None:
        for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        if self.others is not None:
            self.others(worker)
