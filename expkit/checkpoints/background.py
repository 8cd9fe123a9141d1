"""Work in a thread of its own, one piece at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Background"]


class Background:
    """Runs one piece of work at a time beside the caller. The interpreter's exit waits for it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether the last piece is still being done."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, work: Callable[[], object]) -> None:
        """Wait for the piece before, and start `work`, which must handle its own errors."""
        self.wait()
        # No daemon: a checkpoint that is being written is finished before the process ends.
        thread = threading.Thread(target=work, name=self._name, daemon=False)
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
