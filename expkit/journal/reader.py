"""Reading a journal: whole, or following it while it grows, in bounded memory.

A line that cannot be read is skipped and counted. A torn last line is left until its end arrives.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from expkit.journal.format import decode

__all__ = ["JournalReader", "parts_of", "read_journal"]

log = logging.getLogger("expkit")

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 26
_REMEMBERED = 512

_Inode = tuple[int, int]


def parts_of(path: Path) -> list[Path]:
    """Return the rotated parts of the journal at `path` (metrics.0001.jsonl, ...), oldest first."""
    name = re.compile(rf"{re.escape(path.stem)}\.(\d{{4,}}){re.escape(path.suffix)}")
    found = [(int(match[1]), file) for file in path.parent.glob("*") if (match := name.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


class JournalReader:
    """Follows a journal. Each iteration yields the entries that are new since the last one, then ends.

    Rotated parts are read first, and the file may not be there yet. When the journal was cut back (after a resume) or
    replaced, `generation` goes up by one and the entries come again from the start. Who leaves an iteration early
    finds the rest in the next one.

    Args:
        path: the file.
        decode: makes an entry of a line, or raises ValueError: for other files that grow by lines.

    Attributes:
        broken: how many lines could not be read.
        generation: how often the journal began anew under the reader.
    """

    def __init__(self, path: Path | str, decode: Callable[[bytes], dict[str, Any]] = decode) -> None:
        self.path = Path(path)
        self._decoder = decode
        self.broken = 0
        self.generation = 0
        self._file: BinaryIO | None = None
        self._inode: _Inode | None = None
        self._lines: deque[bytes] = deque()
        self._tail = b""
        self._discarding = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self._file is not None or self._open_first():
            yield from self._drain()
            following, anew = self._following()
            if following is None:
                return
            if not anew:
                yield from self._drain()  # what was written between the end that was read and the rotation
                last = self.torn()
                self._tail = b""
                if last is not None:
                    yield last
            if self._open(*following):
                self.generation += anew

    def close(self) -> None:
        """Close the file. Iterating again starts anew."""
        if self._file is not None:
            self._file.close()
        self._file, self._inode, self._tail, self._discarding = None, None, b"", False
        self._lines.clear()

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def torn(self) -> dict[str, Any] | None:
        """Return the entry of a last line that only lacks its newline, if there is one; count it as broken if torn."""
        return self._decode(self._tail)

    def place(self) -> dict[str, Any] | None:
        """Return where the reader stands, as plain JSON values: behind the last entry that it yielded.

        It is told by the bytes before it, so that it is found again in a file that was rotated or cut behind it. None
        if there are none: nothing was read, or the line there has no end.
        """
        if self._file is None or self._discarding:
            return None
        offset = self._file.tell() - len(self._tail) - sum(len(line) + 1 for line in self._lines)
        return {"offset": offset, "before": _before(self._file, offset)} if offset > 0 else None

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        """Go to a `place` that was returned before, by another reader say. Return False if it is no more."""
        self.close()
        for path, inode in reversed(self._files()):
            if self._open(path, inode) and self._file is not None:
                with contextlib.suppress(OSError):
                    if _before(self._file, place["offset"]) == place["before"]:
                        self._file.seek(place["offset"])
                        return True
            self.close()
        return False

    def _files(self) -> list[tuple[Path, _Inode]]:
        """Return the parts and the current file, each with the inode that it has now, if it is there."""
        # The current file first: a rotation in between then shows it twice, and hides nothing.
        current = _inode_of(self.path)
        files = [*((part, _inode_of(part)) for part in parts_of(self.path)), (self.path, current)]
        return [(path, inode) for path, inode in files if inode is not None]

    def _open_first(self) -> bool:
        while files := self._files():
            if self._open(*files[0]):
                return True
        return False

    def _open(self, path: Path, inode: _Inode) -> bool:
        """Open the file at `path` unless it is another one by now."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return False
        if _inode(os.fstat(file.fileno())) != inode:
            file.close()
            return False
        self.close()
        self._file, self._inode = file, inode
        return True

    def _following(self) -> tuple[tuple[Path, _Inode] | None, bool]:
        """At the end of a file: return the one to read next, if any, and whether the journal begins anew with it."""
        if self._file is None:  # closed inside the loop
            return None, False
        files = self._files()
        places = [index for index, (_, inode) in enumerate(files) if inode == self._inode]
        if places and files[places[0]][0] != self.path:  # it has become a rotated part
            return next(iter(files[places[0] + 1 :]), None), False
        if places and os.fstat(self._file.fileno()).st_size >= self._file.tell():
            return None, False
        if not files or files[-1][0] != self.path:
            return None, False  # moved away, and no new one yet
        return files[0], True  # cut, replaced, or truncated in place

    def _drain(self) -> Iterator[dict[str, Any]]:
        while self._file is not None:
            while self._lines:
                entry = self._decode(self._lines.popleft())
                if entry is not None:
                    yield entry
            chunk = self._file.read(_CHUNK) if self._file is not None else b""
            if not chunk:
                return
            *lines, tail = (self._tail + chunk).split(b"\n")
            if self._discarding and lines:
                del lines[0]
                self._discarding = False
            if self._discarding or len(tail) > _LONGEST_LINE:  # rubbish without an end must not fill the memory
                self.broken += not self._discarding
                self._discarding, tail = True, b""
            self._tail = tail
            self._lines.extend(lines)

    def _decode(self, line: bytes) -> dict[str, Any] | None:
        if not line or line.isspace():
            return None
        try:
            return self._decoder(line)
        except ValueError:
            self.broken += 1
            return None


def read_journal(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield all entries of a journal, rotated parts first; says in one warning how many lines were broken."""
    with JournalReader(path) as reader:
        yield from reader
        last = reader.torn()
        if last is not None:
            yield last
        if reader.broken:
            log.warning("%s: skipped %d broken line(s)", reader.path, reader.broken)


def _before(file: BinaryIO, offset: int) -> str:
    """Return a digest of the bytes before `offset`: every line has its time in it."""
    start = max(0, offset - _REMEMBERED)
    read = os.pread(file.fileno(), offset - start, start)
    return hashlib.blake2b(read, digest_size=12).hexdigest() if len(read) == offset - start else ""


def _inode(stat: os.stat_result) -> _Inode:
    return stat.st_dev, stat.st_ino


def _inode_of(path: Path) -> _Inode | None:
    try:
        return _inode(path.stat())
    except FileNotFoundError:
        return None
