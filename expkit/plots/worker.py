"""The process that draws: `python -m expkit.plots.worker HANDLE PARENT`, started by `expkit.plots.drawer`.

matplotlib holds Python's lock while it draws: in a thread it would take from training as much as in the loop itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from expkit.place import describe_at
from expkit.plots.base import Plot

__all__ = ["main"]

_NICER = 10
_LOOK = 1.0
_LAST_MOMENT = 5.0  # to finish a picture


class _Forward(logging.Handler):
    """Sends warnings to the training process, which has the terminal and the log."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.WARNING)
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        self._connection.send(("said", record.levelno, record.getMessage()))


def main(handle: int, parent: int) -> None:
    """Draw what comes over the connection, one piece after the other, until its other end is closed.

    Args:
        handle: file descriptor of the connection.
        parent: process that is drawn for.
    """
    # What ends a job is sent to all of its processes: this one has a picture to finish.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(_NICER)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with Connection(handle) as connection:
        log = logging.getLogger("expkit")
        log.addHandler(_Forward(connection))
        log.propagate = False
        with contextlib.suppress(EOFError, ConnectionError):
            _draw_all(connection)


def _draw_all(connection: Connection) -> None:
    stored: dict[str, bytes] = connection.recv()
    plots: dict[str, Plot] = {}
    while True:
        message = connection.recv_bytes()
        try:
            name, context, collected = pickle.loads(message)  # noqa: S301 - from the process that started this one
            if name not in plots:
                plots[name] = pickle.loads(stored[name])  # noqa: S301
            connection.send(("drawn", _pictures(plots[name].draw(context, collected))))
        except Exception as error:  # noqa: BLE001 - whatever a plot of somebody's own does
            connection.send(("failed", describe_at(error)))


def _pictures(found: object) -> list[Path]:
    """Return the pictures that a plot's `draw` returned.

    Raises:
        TypeError: it is no list of paths.
        FileNotFoundError: one of them is not there.
    """
    if not isinstance(found, list | tuple) or not all(isinstance(each, Path) for each in found):
        kind = "None" if found is None else f"a {type(found).__name__}"
        raise TypeError(f"draw() returned {kind}, but it must return a list of the paths of pictures")
    for path in found:
        if not path.exists():
            raise FileNotFoundError(f"draw() returned {path.name}, but has not made it")
    return list(found)


def _end_with(parent: int) -> None:
    """End when the training process is gone, however it went, even if a drawing hangs."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    time.sleep(_LAST_MOMENT)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
