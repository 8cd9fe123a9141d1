"""A file that is being written by torch, which hides what a disk says of it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import BinaryIO

__all__ = ["Output"]

#: Bytes that are written before anybody asks again whether to give up.
_CHUNK = 1 << 24


class Output:
    """A file that remembers what went wrong when it was written."""

    def __init__(self, file: BinaryIO, cancelled: Callable[[], bool]) -> None:
        self._file, self._cancelled = file, cancelled
        self.error: OSError | None = None
        self.size = 0

    def write(self, data: memoryview) -> int:
        try:
            for start in range(0, len(data), _CHUNK):
                if self._cancelled():
                    raise OSError(errno.ECANCELED, "given up")
                self.size += self._file.write(data[start : start + _CHUNK])
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        self._file.flush()
