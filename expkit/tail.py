"""Following a file that grows by lines, over all that may happen to it, in bounded memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, TypeVar

from expkit.opening import open_file

__all__ = ["FileTail"]

T = TypeVar("T")

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 26
_REMEMBERED = 512

_Inode = tuple[int, int]


class FileTail(Generic[T]):
    """Follows a file. Each iteration yields what is in the lines that are new since the last one, then ends.

    The file may not be there yet. A carriage return, a progress bar's say, ends a line too; empty ones are passed over,
    one that cannot be read is counted, and a torn last one is left until its end arrives. Of a file that was renamed or
    removed the rest is read before the one that has its name now. When the file was truncated, written anew (by
    something longer, too: the last bytes that were read are held against it) or replaced, `generation` goes up by one
    and all lines come again from the start. Who leaves an iteration early finds the rest in the next one.

    Args:
        path: the file.
        decode: returns what is in a line, or raises ValueError.

    Attributes:
        broken: how many lines of it could not be read.
        generation: how often the file began anew under the reader.
    """

    #: Whether what was left unread in a file that another one has replaced counts.
    _reads_rest: ClassVar[bool] = True

    def __init__(self, path: Path | str, decode: Callable[[bytes], T]) -> None:
        self.path = Path(path)
        self._decoder = decode
        self.broken = 0
        self.generation = 0
        self._file: BinaryIO | None = None
        self._inode: _Inode | None = None
        self.close()

    def __iter__(self) -> Iterator[T]:
        """Yield what is new.

        Raises:
            OSError: the file is there, and cannot be read.
        """
        while self._file is not None or self._open_first():
            intact = yield from self._drain()
            following, anew = self._following(intact)
            if following is None:
                return
            if intact and (self._reads_rest or not anew):
                yield from self._drain()  # what was written between the end that was read and the rotation
                last = self.torn()
                self._tail = b""
                if last is not None:
                    yield last
            if self._open(*following) and anew:
                self.generation += 1
                self.broken = 0

    def close(self) -> None:
        """Close the file. Iterating again starts anew."""
        if self._file is not None:
            self._file.close()
        self._file, self._inode = None, None
        self._position, self._last = 0, b""  # how far it was read, and the bytes before that
        self._lines: deque[bytes] = deque()
        self._tail, self._discarding = b"", False

    def __enter__(self) -> FileTail[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # who follows to the end of a process does not think of it

    def torn(self) -> T | None:
        """Return what is in a last line that only lacks its newline, if there is one; count it as broken if torn."""
        return self._decode(self._tail)

    def place(self) -> dict[str, Any] | None:
        """Return where the reader stands, as plain JSON values: behind the last line of which it yielded something.

        It is told by the bytes before it, so that it is found again in a file that was rotated or cut behind it. None
        if there are none: nothing was read, or the line there has no end.
        """
        if self._file is None or self._discarding:
            return None
        offset = self._position - len(self._tail) - sum(len(line) + 1 for line in self._lines)
        return {"offset": offset, "before": _digest(_before(self._file, offset))} if offset > 0 else None

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        """Go to a `place` that was returned before, by another reader say. Return False if it is no more."""
        self.close()
        for path, inode in reversed(self._files()):
            if self._open(path, inode) and self._file is not None:
                with contextlib.suppress(OSError):
                    last = _before(self._file, place["offset"])
                    if _digest(last) == place["before"]:
                        self._position, self._last = place["offset"], last
                        return True
            self.close()
        return False

    def _parts(self) -> list[Path]:
        """Return the files that come before the one at `path`, oldest first."""
        return []

    def _files(self) -> list[tuple[Path, _Inode]]:
        """Return the parts and the current file, each with the inode that it has now, if it is there."""
        # The current file first: a rotation in between then shows it twice, and hides nothing.
        current = _inode_of(self.path)
        files = [*((part, _inode_of(part)) for part in self._parts()), (self.path, current)]
        return [(path, inode) for path, inode in files if inode is not None]

    def _open_first(self) -> bool:
        while files := self._files():
            if self._open(*files[0]):
                return True
        return False

    def _open(self, path: Path, inode: _Inode) -> bool:
        """Open the file at `path` unless it is another one by now."""
        try:
            file = open_file(path)
        except FileNotFoundError:
            return False
        if _inode(os.fstat(file.fileno())) != inode:
            file.close()
            return False
        self.close()
        self._file, self._inode = file, inode
        return True

    def _following(self, intact: bool) -> tuple[tuple[Path, _Inode] | None, bool]:
        """At the end of a file: return the one to read next, if any, and whether all begins anew with it."""
        if self._file is None:
            return None, False
        files = self._files()
        places = [index for index, (_, inode) in enumerate(files) if inode == self._inode]
        if intact and places:
            if files[places[0]][0] == self.path:
                return None, False
            return next(iter(files[places[0] + 1 :]), None), False  # it has become a rotated part
        if not files or files[-1][0] != self.path:
            return None, False  # moved away, and no new one yet
        return files[0], True  # replaced, or written anew in place

    def _drain(self) -> Generator[T, None, bool]:
        """Yield what there is up to the end of the file; return whether it is still what was read before."""
        while True:
            while self._lines:
                found = self._decode(self._lines.popleft())
                if found is not None:
                    yield found
            if self._file is None:  # closed inside the loop
                return True
            # One read for what is new and the bytes before it, so that nothing can happen in between.
            known = len(self._last)
            read = os.pread(self._file.fileno(), known + _CHUNK, self._position - known)
            if not read.startswith(self._last):
                return False
            if len(read) == known:
                return True
            self._last, self._position = read[-_REMEMBERED:], self._position + len(read) - known
            self._take(read[known:])

    def _take(self, chunk: bytes) -> None:
        """Split what was read into lines."""
        # Zeros are a hole: who had it open to write goes on at the old place after it was truncated.
        text = (self._tail + chunk.replace(b"\r", b"\n")).lstrip(b"\0")
        *lines, tail = text.split(b"\n")
        if self._discarding and lines:
            del lines[0]
            self._discarding = False
        if self._discarding or len(tail) > _LONGEST_LINE:  # rubbish without an end must not fill the memory
            self.broken += not self._discarding
            self._discarding, tail = True, b""
        self._tail = tail
        self._lines.extend(lines)

    def _decode(self, line: bytes) -> T | None:
        if not line or line.isspace():
            return None
        try:
            return self._decoder(line)
        except ValueError:
            self.broken += 1
            return None


def _before(file: BinaryIO, offset: int) -> bytes:
    """Return the bytes before `offset`, at most as many as are remembered; less if the file is shorter."""
    start = max(0, offset - _REMEMBERED)
    return os.pread(file.fileno(), offset - start, start)


def _digest(text: bytes) -> str:
    """Return a digest of the bytes before a place: most lines have their step or time in it."""
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def _inode(stat: os.stat_result) -> _Inode:
    return stat.st_dev, stat.st_ino


def _inode_of(path: Path) -> _Inode | None:
    try:
        return _inode(path.stat())
    except FileNotFoundError:
        return None
