"""Drawing beside training, in a process of its own, in which a hung or crashed drawing harms nobody."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from expkit.errors import describe
from expkit.plots.base import Plot, PlotContext

__all__ = ["Drawer", "Drawn"]

log = logging.getLogger("expkit")

#: Seconds after which a drawing is given up.
_PATIENCE = 300.0
_MOMENT = 5.0

_Answer = tuple[list[Path], str | None]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What has become of a drawing.

    Attributes:
        plot: its name.
        step: of the run.
        paths: the pictures made.
        error: why there are none, or None.
    """

    plot: str
    step: int
    paths: list[Path]
    error: str | None


class Drawer:
    """Draws one picture after the other beside the caller; of each plot the newest ones wait.

    Args:
        plots: name -> plot. Those that cannot be pickled fail when they are drawn.
        done: called with each drawing that has ended, from a thread.
        patience: seconds that a drawing may take.
        waiting: how many drawings of each plot wait at most; of more, the oldest are left out.
    """

    def __init__(
        self,
        plots: Mapping[str, Plot],
        done: Callable[[Drawn], object],
        patience: float = _PATIENCE,
        waiting: int = 1,
    ) -> None:
        self._plots: dict[str, bytes] = {}
        self._unfit: dict[str, Exception] = {}
        for name, plot in plots.items():
            try:
                self._plots[name] = pickle.dumps(plot)
            except Exception as error:  # noqa: BLE001 - whatever a plot of somebody's own holds
                self._unfit[name] = error
        self._done, self._patience, self._most = done, patience, waiting
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[tuple[int, bytes]]] = {}
        self._busy: str | None = None
        self._closed = self._abandoned = False
        self._worker: _Worker | None = None
        self._thread: threading.Thread | None = None

    def submit(self, plot: str, context: PlotContext, collected: Any) -> bool:
        """Have something drawn. Return whether it takes the place of the oldest drawing of this plot that waited.

        Raises:
            Exception: whatever pickling raised.
        """
        if plot in self._unfit:
            raise self._unfit[plot]
        message = pickle.dumps((plot, context, collected), protocol=pickle.HIGHEST_PROTOCOL)
        self.start()
        with self._changed:
            waiting = self._waiting.setdefault(plot, deque())
            replaced = len(waiting) == self._most
            if replaced:
                waiting.popleft()
            waiting.append((context.step, message))
            self._changed.notify_all()
        return replaced

    def start(self) -> None:
        """Start the process, which takes a second that nobody waits for, if it has not been started."""
        if self._thread is None:
            # A thread that is no daemon could not be abandoned: the interpreter would wait for it in any case.
            self._thread = threading.Thread(target=self._work, name="pictures", daemon=True)
            self._thread.start()

    def wait(self, timeout: float) -> list[str]:
        """Wait until everything is drawn. Return the plots that were not drawn in `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and self._busy is None, timeout)
            return list(dict.fromkeys([*([self._busy] if self._busy is not None else []), *self._waiting]))

    def end(self) -> None:
        """Let the process end once what is waiting has been drawn."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def finish(self, timeout: float) -> list[str]:
        """Draw what is waiting, and end the process. Return the plots that were not drawn in `timeout` seconds."""
        self.end()
        try:
            return self.wait(timeout)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End the process at once."""
        with self._changed:
            self._closed = self._abandoned = True
            self._waiting.clear()
            self._changed.notify_all()
            if self._worker is not None:
                self._worker.kill()
        if self._thread is not None:
            self._thread.join(_MOMENT)

    def _work(self) -> None:
        try:
            self._draw_all()
        finally:
            self._close()

    def _draw_all(self) -> None:
        self._open()
        while (piece := self._next()) is not None:
            name, step, message = piece
            paths, error = self._ask(message)
            if self._abandoned:
                return
            self._done(Drawn(name, step, paths, error))
            with self._changed:
                self._busy = None
                self._changed.notify_all()

    def _next(self) -> tuple[str, int, bytes] | None:
        """Wait for something to draw, and return it; None once there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            self._busy = next(iter(self._waiting))
            waiting = self._waiting.pop(self._busy)
            piece = waiting.popleft()
            if waiting:
                self._waiting[self._busy] = waiting  # the others come first
            return (self._busy, *piece)

    def _open(self) -> str | None:
        """Start the process if there is none. Return why it could not be, or None."""
        if self._worker is not None:
            return None
        try:
            worker = _Worker(self._plots)
        except (OSError, ValueError) as error:
            return f"the process that draws cannot be started: {describe(error)}"
        with self._changed:
            self._worker = worker
            if self._abandoned:
                worker.kill()
        return None

    def _ask(self, message: bytes) -> _Answer:
        problem = self._open()
        worker = self._worker
        if problem is not None or worker is None:
            return [], problem
        try:
            return worker.ask(message, self._patience)
        except TimeoutError:
            why = f"given up after {self._patience:g} seconds"
        except (EOFError, OSError):
            why = f"the process that draws has ended: {worker.last_words()}"
        self._close()  # the next drawing has a new one
        return [], why

    def _close(self) -> None:
        with self._changed:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


class _Worker:
    """The process that draws, and the connection to it."""

    def __init__(self, plots: Mapping[str, bytes]) -> None:
        ours, theirs = Pipe()
        folders = [folder or os.getcwd() for folder in sys.path]  # noqa: PTH109 - as a string
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(folders),
            "MPLBACKEND": "agg",  # plots of somebody's own may use pyplot
            "CUDA_VISIBLE_DEVICES": "",  # what is drawn from lies on the host, and a context takes memory of the GPU
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process; a pipe could fill up
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-m", "expkit.plots.worker", str(theirs.fileno()), str(os.getpid())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C in the terminal is for training alone
            )
        self._connection: Connection = ours
        self._plots: Mapping[str, bytes] | None = plots

    def ask(self, message: bytes, patience: float) -> _Answer:
        """Return what became of one drawing. It is waited for without Python's lock.

        Raises:
            TimeoutError: nothing within `patience` seconds.
            EOFError, OSError: the process has ended.
        """
        deadline = time.monotonic() + patience
        if self._plots is not None:
            self._connection.send(self._plots)
            self._plots = None
        self._connection.send_bytes(message)
        while self._connection.poll(max(0.0, deadline - time.monotonic())):
            kind, *rest = self._connection.recv()
            if kind == "said":
                log.log(*rest)
            else:
                return (rest[0], None) if kind == "drawn" else ([], rest[0])
        raise TimeoutError

    def last_words(self) -> str:
        """Return why a process has closed its end: its exit code, and the last line that it wrote."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_MOMENT)
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 1000))
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"exit code {self._process.poll()}" + (f", {said}" if said else "")

    def kill(self) -> None:
        """End the process, wherever it is. Who waits for it in `ask` is told."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and close the connection, in the thread that uses it."""
        self.kill()
        self._connection.close()
        self._errors.close()
