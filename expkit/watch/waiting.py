"""Waiting until there is more to read: the file system says so, or else the clock; and until there is a run at all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["OWN", "waits", "waits_for"]

log = logging.getLogger("expkit")

#: How the names of the watcher's own files begin: that they change is no news to it.
OWN = ("watch_", "smart_monitor_", ".")

_STEP = 100  # milliseconds between two looks at what the system has said: 0.05 % of a core
_GATHER = 200  # milliseconds in which changes become one


def waits_for(found: Callable[[], bool], seconds: float, stop: threading.Event) -> bool:
    """Wait until something is `found`, asked every so many seconds; return False if `stop` is set before."""
    while not stop.is_set():
        if found():
            return True
        stop.wait(seconds)
    return False


def waits(folders: Sequence[Path], seconds: float, stop: threading.Event) -> Iterator[None]:
    """Yield whenever something in `folders` has changed, and at least every so many seconds, until `stop` is set.

    Network file systems say nothing of what other hosts write: then it is the clock alone.
    """
    said = False
    while not stop.is_set():
        try:
            yield from _notified(folders, seconds, stop)
        except (OSError, RuntimeError, ImportError) as error:  # no such folder yet, no watches left, no such system
            if not said:
                log.info("no notification of changes (%s): looking every %g s", error, seconds)
            said = True
        if not stop.wait(seconds):
            yield


def _notified(folders: Sequence[Path], seconds: float, stop: threading.Event) -> Iterator[None]:
    if not folders:
        return
    from watchfiles import watch

    for _ in watch(
        *folders,
        watch_filter=lambda _, path: not Path(path).name.startswith(OWN),
        debounce=_GATHER,
        step=_STEP,
        stop_event=stop,
        rust_timeout=max(1, int(seconds * 1000)),
        yield_on_timeout=True,
        recursive=False,
        raise_interrupt=False,
    ):
        yield
