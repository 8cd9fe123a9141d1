"""What a DataLoader of ours does in its loading processes."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import Any, TypeVar

from torch.utils.data import DataLoader, default_collate, get_worker_info

from expkit.rng import seed_all
from expkit.sampler import mix

__all__ = ["Fetch", "IgnoreSignals", "as_it_is", "kill_loaders", "noting_loaders"]

_T = TypeVar("_T")

_MOMENT = 1.0  # seconds in which a process that hung up is seen to be dead

#: The loading processes of this one, those that ignore signals, and none of somebody else's in the same program.
_loading: weakref.WeakSet[BaseProcess] = weakref.WeakSet()
_persistent: weakref.WeakSet[DataLoader[Any]] = weakref.WeakSet()


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

    Workers that die take the main process along before it can save. What ends them is that they have no more to do, or
    `kill_loaders`: the SIGTERM that torch and multiprocessing send, and then wait for ever, they ignore, too.

    Args:
        others: a worker_init_fn to call besides.
    """

    def __init__(self, others: Callable[[int], object] | None = None) -> None:
        self.others = others

    def __call__(self, worker: int) -> None:
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        Queue._on_queue_feeder_error = staticmethod(_end_with)  # type: ignore[attr-defined]
        if self.others is not None:
            self.others(worker)


def _end_with(error: Exception, _: object) -> None:
    """End a loading process that cannot hand over a batch: its temporary folder is full, say.

    multiprocessing would drop the batch, and who waits for it would wait for ever.
    """
    print(f"a loading process ends, as it cannot hand over a batch: {type(error).__name__}: {error}", file=sys.stderr)
    os._exit(1)


def noting_loaders(batches: Iterator[_T], loader: DataLoader[Any] | None = None) -> Iterator[_T]:
    """Yield from `batches`. What processes begin with the first of them `kill_loaders` will know.

    Args:
        batches: of one epoch.
        loader: where they come from, if it is somebody's own.

    Raises:
        RuntimeError: one of them was killed.
    """
    if loader is not None and loader.persistent_workers:
        _persistent.add(loader)
    before = set(multiprocessing.active_children())
    try:
        try:
            first = next(batches, None)
        finally:
            _loading.update(set(multiprocessing.active_children()) - before)
        if first is not None:
            yield first
            yield from batches
    except (EOFError, ConnectionError) as error:  # what a connection says whose other end is gone
        _blame_the_dead(error)
        raise


def _blame_the_dead(error: Exception) -> None:
    """Raise an error that names the loading process that is dead, if one is. torch may be quicker to say so."""
    deadline = time.monotonic() + _MOMENT
    while time.monotonic() < deadline:
        for process in _loading:
            if process.exitcode not in (None, 0):
                how = f"exit code {process.exitcode}" + (" (killed)" if process.exitcode == -9 else "")
                raise RuntimeError(f"DataLoader worker (pid {process.pid}) is dead: {how}") from error
        time.sleep(0.01)


def kill_loaders() -> None:
    """Kill the loading processes, for an end that must not wait for their batches, nor for ever: they ignore SIGTERM.

    When one of them is killed from outside, the others hang: it may have held a lock of the queue that they share.
    """
    if not _loading or threading.current_thread() is not threading.main_thread():
        return  # only there can torch's handler, which raises an error for each, be put aside
    number = getattr(signal, "SIGCHLD", None)
    before = signal.signal(number, signal.SIG_DFL) if number is not None else None
    for process in _loading:
        process.kill()
    for process in _loading:
        process.join()
    _loading.clear()
    for loader in _persistent:
        loader._iterator = None  # whoever goes on with it is to get new processes
    if number is not None and before is not None:
        signal.signal(number, before)


# Before multiprocessing's own, which was registered earlier, and waits for them.
atexit.register(kill_loaders)
