"""Work in a thread of its own, one piece at a time."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable

__all__ = ["Background"]

_MOMENT = 2.0


class Background:
    """Runs one piece of work at a time beside the caller. The process ends only after it, unless it is abandoned."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        # A Ctrl-C that interrupts the thread's own join makes Python believe that it has ended: join comes after this.
        self._done = threading.Event()
        self._done.set()
        reference = weakref.WeakMethod(self.wait)
        atexit.register(lambda: (wait := reference()) and wait())

    def submit(self, work: Callable[[], object]) -> None:
        """Wait for the piece before, and start `work`, which must handle its own errors."""
        self.wait()
        done = self._done = threading.Event()
        # A thread that is no daemon could not be abandoned: the interpreter would wait for it in any case.
        thread = threading.Thread(target=self._run, args=(work, done), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the limit of threads, or the interpreter is on its way out
            self._run(work, done)
        else:
            self._thread = thread

    def wait(self) -> None:
        """Return once nothing is being done."""
        self._done.wait()
        if self._thread is not None:
            self._thread.join()  # it lets go of what it has held

    def abandon(self) -> None:
        """Wait for a moment, in which work that has been told to give up does so, and never again."""
        # The interpreter ends its threads wherever they are, and within torch's own code that aborts the process.
        if self._done.wait(_MOMENT):
            self.wait()
        self._thread = None
        self._done = threading.Event()
        self._done.set()

    def _run(self, work: Callable[[], object], done: threading.Event) -> None:
        try:  # the bound method keeps this object, and with it the wait at the end, alive until the work is done
            work()
        finally:
            done.set()
