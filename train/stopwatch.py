"""The time that training itself takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

__all__ = ["Stopwatch"]


class Stopwatch:
    """Seconds spent training since the last lap: evaluation, saving and plotting do not count."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin a lap now."""
        self._began = time.perf_counter()
        self._away = 0.0

    def lap(self) -> float:
        """End the lap and begin the next; return its seconds, more than 0."""
        now = time.perf_counter()
        passed = now - self._began - self._away
        self._began, self._away = now, 0.0
        return max(passed, 1e-9)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens in this context."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._away += time.perf_counter() - began

    def pausing(self, *functions: Callable[[], object]) -> Callable[[], None]:
        """Return one function that calls all of them, such that the time that they take does not count."""

        def paused() -> None:
            with self.paused():
                for function in functions:
                    function()

        return paused
