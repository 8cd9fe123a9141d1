"""Follows a text file line by line while it grows, is truncated, or is replaced by a new one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["FileTail"]

_CHUNK = 1 << 16
_LONGEST = 1 << 24


class FileTail:
    """Yields the lines of a file that are new at each iteration. A carriage return, a progress bar's say, ends one too.

    A file that is shorter than what was read begins anew. Of one that was renamed the rest is read before the one that
    has its name now. It may not be there yet.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._begun = b""

    def __iter__(self) -> Iterator[str]:
        """Yield what is new.

        Raises:
            OSError: the file is there, and cannot be read.
        """
        if self._file is None:
            self._open()
        while self._file is not None:
            yield from self._lines()
            here = os.fstat(self._file.fileno())
            if here.st_size < self._file.tell():  # truncated; the line that had no end yet is gone
                self._file.seek(0)
                self._begun = b""
            elif self._is_still(here):
                return
            else:
                yield from self._lines()  # written between its end and its being moved
                yield from self.rest()
                self._open()

    def rest(self) -> Iterator[str]:
        """Yield the last line, which has no end yet, if there is one. What else comes of it is a line of its own."""
        begun, self._begun = self._begun, b""
        if begun:
            yield begun.decode("utf-8", "replace")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._begun = None, b""

    def _open(self) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self._file = self.path.open("rb")

    def _lines(self) -> Iterator[str]:
        assert self._file is not None
        while chunk := self._file.read(_CHUNK):
            *lines, self._begun = (self._begun + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(self._begun) > _LONGEST:  # what has no end must not fill the memory
                lines, self._begun = [*lines, self._begun], b""
            for line in lines:
                yield line.decode("utf-8", "replace")

    def _is_still(self, here: os.stat_result) -> bool:
        try:
            return os.path.samestat(here, self.path.stat())
        except FileNotFoundError:
            return True  # moved away, and no new one yet
