"""Reading a journal: whole, or following it while it grows, in bounded memory.

A line that cannot be read is skipped and counted. A torn last line is left until its end arrives.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from expkit.journal.format import decode

__all__ = ["JournalReader", "parts_of", "read_journal"]

log = logging.getLogger("expkit")

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 26


def parts_of(path: Path) -> list[Path]:
    """Return the rotated parts of the journal at `path` (metrics.0001.jsonl, ...), oldest first."""
    return sorted(path.parent.glob(f"{path.stem}.[0-9][0-9][0-9][0-9]{path.suffix}"))


class JournalReader:
    """Follows a journal. Each iteration yields the entries that are new since the last one, then ends.

    Rotated parts are read first, and the file may not be there yet. When the journal was cut back (after a resume) or
    replaced, `generation` goes up by one and the entries come again from the start.

    Attributes:
        broken: how many lines could not be read.
        generation: how often the journal began anew under the reader.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.broken = 0
        self.generation = 0
        self._file: BinaryIO | None = None
        self._inode: tuple[int, int] | None = None
        self._tail = b""
        self._discarding = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self._file is not None or self._open_first():
            yield from self._drain()
            if not self._advance():
                return

    def close(self) -> None:
        """Close the file. Iterating again starts anew."""
        if self._file is not None:
            self._file.close()
        self._file, self._inode, self._tail, self._discarding = None, None, b"", False

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def torn(self) -> dict[str, Any] | None:
        """Return the entry of a last line that only lacks its newline, if there is one; count it as broken if torn."""
        if not self._tail.strip():
            return None
        return next(iter(self._decode([self._tail])), None)

    def _files(self) -> list[Path]:
        return [*parts_of(self.path), self.path]

    def _open_first(self) -> bool:
        return any(self._open(path) for path in self._files())

    def _open(self, path: Path) -> bool:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return False
        self.close()
        self._file = file
        self._inode = _inode(os.fstat(file.fileno()))
        return True

    def _advance(self) -> bool:
        """At the end of a file: go on to the one that follows it. False: nothing more for now."""
        assert self._file is not None
        files = [(path, _inode_of(path)) for path in self._files()]
        names = [path for path, inode in files if inode == self._inode]
        if names == [self.path]:
            if os.fstat(self._file.fileno()).st_size >= self._file.tell():
                return False
            self.generation += 1  # truncated in place: begin again
            return self._open_first()
        if names:  # it has become a rotated part: the next part, or the current file, follows
            later = files[[path for path, _ in files].index(names[0]) + 1 :]
            return any(self._open(path) for path, inode in later if inode is not None)
        if _inode_of(self.path) is None:
            return False  # moved away, and no new one yet
        self.generation += 1
        return self._open_first()

    def _drain(self) -> Iterator[dict[str, Any]]:
        assert self._file is not None
        while chunk := self._file.read(_CHUNK):
            *lines, tail = (self._tail + chunk).split(b"\n")
            if self._discarding and lines:
                del lines[0]
                self._discarding = False
            if self._discarding or len(tail) > _LONGEST_LINE:  # rubbish without an end must not fill the memory
                self.broken += not self._discarding
                self._discarding, tail = True, b""
            self._tail = tail
            yield from self._decode(lines)

    def _decode(self, lines: list[bytes]) -> Iterator[dict[str, Any]]:
        for line in lines:
            if not line or line.isspace():
                continue
            try:
                entry = decode(line)
            except (ValueError, KeyError, IndexError, TypeError, AttributeError):
                self.broken += 1
            else:
                yield entry


def read_journal(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield all entries of a journal, rotated parts first; says in one warning how many lines were broken."""
    with JournalReader(path) as reader:
        yield from reader
        last = reader.torn()
        if last is not None:
            yield last
        if reader.broken:
            log.warning("%s: skipped %d broken line(s)", reader.path, reader.broken)


def _inode(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _inode_of(path: Path) -> tuple[int, int] | None:
    try:
        return _inode(path.stat())
    except FileNotFoundError:
        return None
