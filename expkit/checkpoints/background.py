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
        reference = weakref.WeakMethod(self.wait)
        atexit.register(lambda: (wait := reference()) and wait())

    def submit(self, work: Callable[[], object]) -> None:
        """Wait for the piece before, and start `work`, which must handle its own errors."""
        self.wait()
        # A thread that is no daemon could not be abandoned: the interpreter would wait for it in any case.
        thread = threading.Thread(target=self._holding, args=(work,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the limit of threads, or the interpreter is on its way out
            work()
        else:
            self._thread = thread

    def wait(self) -> None:
        """Return once nothing is being done."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def abandon(self) -> None:
        """Wait for a moment, in which work that has been told to give up does so, and never again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            # The interpreter ends its threads wherever they are, and within torch's own code that aborts the process.
            thread.join(_MOMENT)

    def _holding(self, work: Callable[[], object]) -> None:
        work()  # the bound method keeps this object, and with it the wait at the end, alive until the work is done
