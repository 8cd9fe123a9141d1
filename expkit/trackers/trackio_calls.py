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
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["inside", "times"]

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

_current = threading.local()  # .call: the call that this thread is in; absent outside


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
        known, steps = times.get(options.get("run_id") or ""), options.get("steps")
        if known and steps and options.get("timestamps") is None:
            now = datetime.now(UTC).isoformat()
            options["timestamps"] = [known.get(step, now) for step in steps]
            for step in [step for step in list(known) if step < min(steps)]:
                known.pop(step, None)
        write(*args, **options)

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
