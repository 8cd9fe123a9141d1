"""Calls into trackio that neither print nor ask the network.

trackio prints, drops what it cannot store with a warning, asks the network who the user is, and lets environment
variables send a local run to a server. It has no settings against that. So a few of its names get functions of
ours, which act only inside a `TrackioTracker`'s call, in its thread. Whoever uses trackio beside expkit sees no
difference.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import logging
import sqlite3
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from expkit.errors import describe

__all__ = ["forget_waiting", "inside", "times", "write_waiting"]

log = logging.getLogger("expkit")


@contextlib.contextmanager
def inside(local: bool, strict: bool = True) -> Iterator[None]:
    """Whatever calls trackio does so in here. If `strict`, what it warns of becomes an error.

    Args:
        local: whether the run stays on this machine, whatever the environment says.
        strict: raise RuntimeError for a warning; otherwise it is logged.
    """
    _install()
    call = _Call(local, [])
    _current.call = call
    try:
        yield
    finally:
        del _current.call
    if call.warnings and strict:
        raise RuntimeError("; ".join(call.warnings))
    for message in call.warnings:
        log.warning("%s", message)


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of ours into trackio: whether its run is local, and what trackio warned of."""

    local: bool
    warnings: list[str]


_OUTSIDE = _Call(False, [])

#: Run id -> step -> when the record was made, while the row waits in trackio's queue.
times: dict[str, dict[int, str]] = {}

#: Run id -> what writes rows that the database has not taken yet, the oldest first: trackio would drop them.
_waiting: dict[str, deque[Callable[[], None]]] = {}
_MOST_WAITING = 7200  # two a second: an hour
_writing = threading.Lock()

_current = threading.local()  # .call: the call that this thread is in; absent outside


def wait(run_id: str, row: Callable[[], None]) -> None:
    """Let `row`, which writes rows of a run, wait for the database: for an hour's, then the oldest are dropped."""
    with _writing:
        waiting = _waiting.setdefault(run_id, deque(maxlen=_MOST_WAITING))
        if len(waiting) == _MOST_WAITING - 1:
            log.warning(
                "trackio's database has taken nothing for %d writes: from here on the oldest are dropped; "
                "`expkit replay` brings them later",
                _MOST_WAITING,
            )
        waiting.append(row)


def write_waiting(run_id: str) -> None:
    """Write the rows of a run that the database has not taken yet. While it refuses (locked, full), they stay."""
    with _writing:
        waiting = _waiting.get(run_id, deque())
        while waiting:
            try:
                waiting[0]()
            except (sqlite3.OperationalError, OSError) as error:
                if len(waiting) == 1:
                    log.warning("trackio cannot write (%s): rows wait, and it is tried again", describe(error))
                return
            except Exception:  # of any kind: no other time will do for this row, which must not hold up those that come
                waiting.popleft()
                raise
            waiting.popleft()


def forget_waiting(run_id: str) -> None:
    """Forget the rows of a run that the database has not taken: they come again, or never."""
    with _writing:
        _waiting.pop(run_id, None)


@functools.cache
def _install() -> None:
    """Put our functions in place of trackio's, once per process."""
    import trackio.media
    import trackio.run
    import trackio.utils

    def print_(*args: Any, **options: Any) -> None:
        if hasattr(_current, "call"):
            log.debug("trackio: %s", " ".join(map(str, args)))
        else:
            builtins.print(*args, **options)

    warn: Any = getattr(trackio.utils, "_emit_nonfatal_warning", None)
    whoami: Any = getattr(trackio.run, "_get_default_namespace", None)
    resolve: Any = getattr(trackio.utils, "resolve_space_id_and_server_url", None)
    is_figure: Any = getattr(trackio.media.TrackioHtml, "is_loggable_figure", None)

    def emit_nonfatal_warning(message: str, *args: Any, **options: Any) -> None:
        if hasattr(_current, "call"):
            _current.call.warnings.append(message)
        else:
            warn(message, *args, **options)

    def get_default_namespace() -> str | None:
        # With a Hugging Face token this is a request without a timeout. HF_HUB_OFFLINE would prevent it too,
        # but also the downloads of the training itself.
        return None if getattr(_current, "call", _OUTSIDE).local else whoami()

    def resolve_space_id_and_server_url(*args: Any) -> tuple[str | None, str | None]:
        return (None, None) if getattr(_current, "call", _OUTSIDE).local else resolve(*args)

    def is_loggable_figure(value: Any) -> bool:
        # It looks into matplotlib, and fails while another thread is in the middle of importing that.
        return not hasattr(_current, "call") and is_figure(value)

    def bulk_log(*args: Any, **options: Any) -> None:
        # By itself trackio gives all rows that it writes at once the time of that moment.
        run_id = options.get("run_id") or ""
        known, steps = times.get(run_id), options.get("steps")
        if known and steps and options.get("timestamps") is None:
            now = datetime.now(UTC).isoformat()
            options["timestamps"] = [known.get(step, now) for step in steps]
            for step in [step for step in list(known) if step < min(steps)]:
                known.pop(step, None)
        if known is None:  # somebody else's run
            write(*args, **options)
        else:
            wait(run_id, partial(write, *args, **options))
            write_waiting(run_id)

    storage: Any = trackio.run.SQLiteStorage  # type: ignore[attr-defined]
    write = storage.bulk_log
    storage.bulk_log = staticmethod(bulk_log)
    for name, module in list(sys.modules.items()):
        if name == "trackio" or name.startswith("trackio."):
            # A global name hides the builtin in that module only. Redirecting stdout would silence all threads.
            vars(module).setdefault("print", print_)
            if hasattr(module, "_emit_nonfatal_warning"):
                setattr(module, "_emit_nonfatal_warning", emit_nonfatal_warning)  # noqa: B010
    setattr(trackio.run, "_get_default_namespace", get_default_namespace)  # noqa: B010
    setattr(trackio.utils, "resolve_space_id_and_server_url", resolve_space_id_and_server_url)  # noqa: B010
    setattr(trackio.media.TrackioHtml, "is_loggable_figure", staticmethod(is_loggable_figure))  # noqa: B010
