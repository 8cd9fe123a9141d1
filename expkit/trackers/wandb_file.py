"""The file that W&B writes of a run, seen from outside: whether it still grows.

Where its disk was full once, W&B's service process never writes to it again, and tells nobody but its own log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["GrowingFile"]

#: Seconds between two looks: W&B puts what it gets on the disk within a second, or 15 where that cannot be set.
_EVERY = 30.0
#: Seconds that the last lines of a run that is closed may take.
_PATIENCE = 10.0


class GrowingFile:
    """A file to which something is added all the time.

    Args:
        path: the file, which need not be there yet; None: nothing is looked at.
        clock: returns seconds, for tests.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._size = -1
        self._due = clock() + _EVERY

    def before_adding(self) -> None:
        """To be called before something is added: now and then it looks whether what came before is there.

        Raises:
            OSError: it is not, or there is no file any more.
        """
        now = self._clock()
        if self.path is None or now < self._due:
            return
        size = self.path.stat().st_size
        if size <= self._size:
            raise OSError(f"W&B no longer writes to {self.path}")
        self._size, self._due = size, now + _EVERY

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Where the file is closed: wait until its end is there.

        Raises:
            OSError: it does not come, or there is no file any more.
        """
        if self.path is None:
            yield
            return
        size = self.path.stat().st_size
        yield
        deadline = self._clock() + _PATIENCE
        while self.path.stat().st_size <= size:
            if self._clock() > deadline:
                raise OSError(f"W&B has not written the end of {self.path}")
            time.sleep(0.02)
