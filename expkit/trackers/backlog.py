"""The records that a run's journal holds, read once, as far as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from expkit.journal import JournalReader, to_record
from expkit.record import Record

__all__ = ["Backlog"]


class Backlog:
    """Reads on where it stopped: what a slow tracker lacks again and again costs one pass over the journal.

    Args:
        path: the journal, which may be growing, or not there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: JournalReader | None = None
        self._next: Record | None = None  # read, but of a later step than was asked for

    def upto(self, step: int) -> Iterator[Record]:
        """Yield the records that were not read yet, up to that of `step`."""
        if self._reader is None:
            self._reader = JournalReader(self._path)
        if self._next is not None:
            if self._next.step > step:
                return
            record, self._next = self._next, None
            yield record
        for entry in self._reader:
            record = to_record(entry)
            if record.step > step:
                self._next = record
                return
            yield record

    def rewind(self) -> None:
        """Begin anew."""
        if self._reader is not None:
            self._reader.close()
        self._reader = self._next = None
