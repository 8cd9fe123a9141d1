"""Writing a journal: append a line and flush it, whatever becomes of the file and the disk."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from expkit.files import fsync_folder
from expkit.journal.format import encode
from expkit.journal.reader import parts_of
from expkit.record import Record
from expkit.troubles import WriteTrouble

__all__ = ["Journal"]

log = logging.getLogger("expkit")

#: All journals of this process, so that a forked one, a loading process say, begins with locks that nobody holds.
_journals: weakref.WeakSet[Journal] = weakref.WeakSet()

#: Bytes that may wait in memory for a disk.
_MAX_PENDING = 1 << 26

#: Of the lines within so many seconds, so many look whether the file is still there.
_BURST, _LOOKS = 0.005, 10

_Inode = tuple[int, int]


class Journal:
    """Appends records to a file: each line is handed to the operating system before `write` returns.

    A killed process loses nothing that was written; a power cut may lose what `sync` had not yet reached. A disk that
    is full or sick never ends a run: lines wait in memory (up to 64 MiB) and go out with the next write that succeeds.
    When more than that waits, the oldest are dropped and counted: the newest tell how the run stands, and how it ended.
    When somebody archives the file by moving it away, or deletes it, a new one is begun.

    Any thread may call it.

    Args:
        path: the file.
        must_open: whether it is an error if the file cannot be opened now. If not, its lines wait.

    Attributes:
        lost: how many lines could not be kept.

    Raises:
        OSError: the file must be opened now, and cannot.
    """

    def __init__(self, path: Path | str, must_open: bool = True) -> None:
        self.path = Path(path)
        self.lost = 0
        self._said_lost = 0
        self._pending = bytearray()
        self._torn = b""  # what a disk that became full has taken of the first waiting line
        self._trouble = WriteTrouble(self.path, "its lines wait in memory")
        self._lock = threading.RLock()  # one that may be entered again: the log may end in a journal too
        self._descriptor = -1
        self._inode: _Inode | None = None
        self._is_new = False
        self._window, self._looks = -1.0, 0
        self._closed = False
        _journals.add(self)
        if must_open:
            self._descriptor = self._open()

    def write(self, record: Record, flush: bool = True) -> None:
        """Append `record`. With `flush=False` it waits in memory for the next flush."""
        self.write_line(encode(record), flush)

    def write_line(self, line: bytes, flush: bool = True) -> None:
        """Append one encoded line, which ends with a newline."""
        with self._lock:
            self._pending += line
            if flush or len(self._pending) > _MAX_PENDING:
                self._flush()

    def flush(self) -> None:
        """Hand everything to the operating system. What it does not take waits for the next flush."""
        with self._lock:
            self._flush()

    def sync(self) -> None:
        """Flush, and make it survive a power cut. Called before a checkpoint commits, not per line.

        Raises:
            OSError: lines still wait in memory, or the disk did not confirm.
        """
        with self._lock:
            self.flush()
            if self._trouble.error is not None:
                raise self._trouble.error
            descriptor = os.dup(self._descriptor)  # so that nobody who writes has to wait for the disk
        try:
            os.fsync(descriptor)
            if self._is_new:  # its name, too
                fsync_folder(self.path.parent)
            self._is_new = False
        finally:
            os.close(descriptor)

    def rotate(self) -> Path:
        """Move the file to the next numbered part and go on in a new one. Readers join the parts."""
        with self._lock:
            self._looks = 0
            self._reach()
            self.flush()
            number = max((int(part.suffixes[-2][1:]) for part in parts_of(self.path)), default=0) + 1
            part = self.path.with_name(f"{self.path.stem}.{number:04d}{self.path.suffix}")
            os.replace(self.path, part)
            self._looks = 0
            self._reach()
            return part

    def close(self) -> None:
        """Flush and close. Says how many lines are lost, if any."""
        with self._lock:
            if self._closed:
                return
            self.flush()
            self._closed = True
            self.lost += self._waiting()
            self._pending.clear()
            if self._descriptor >= 0:
                with contextlib.suppress(OSError):  # some file systems say only now what they could not write
                    os.close(self._descriptor)
                self._descriptor = -1
            if self.lost:
                log.error("%s could not be written for a time: %d line(s) are lost", self.path, self.lost)

    def trouble(self) -> dict[str, Any]:
        """Return what went wrong so far, with the numbers of lines that wait and that are lost; {} if nothing did."""
        with self._lock:
            found = self._trouble.summary()
            return {**found, "waiting": self._waiting(), "lost": self.lost} if found else {}

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _flush(self) -> None:
        if self._closed or not (self._pending or self._trouble.error):
            return
        try:
            self._reach()
            while self._pending:
                self._took(os.write(self._descriptor, self._pending))
        except OSError as error:
            self._drop_oldest()
            self._trouble.failed(error)
        else:
            if self._trouble.error is None:
                return
            lost, self._said_lost = self.lost - self._said_lost, self.lost
            self._trouble.worked(f"{lost} line(s), the oldest, are lost" if lost else "nothing was lost")

    def _waiting(self, end: int | None = None) -> int:
        """Return how many lines wait, or how many of the first `end` bytes; a newline in front ends a torn one."""
        return self._pending.count(b"\n", 0, end) - self._pending.startswith(b"\n")

    def _took(self, size: int) -> None:
        """Forget what the disk has taken of the waiting lines, all but the beginning of a line that it cut short."""
        if size == len(self._pending):
            self._pending.clear()
            self._torn = b""
            return
        if not size:
            raise OSError(errno.EIO, "it takes nothing, and says nothing")
        taken = self._torn + self._pending[:size]
        self._torn = bytes(taken[taken.rfind(b"\n") + 1 :])
        del self._pending[:size]

    def _drop_oldest(self) -> None:
        """Keep what waits below its limit. An eighth at a time: each time, what is left is moved in memory."""
        excess = len(self._pending) - _MAX_PENDING
        if excess <= 0:
            return
        end = self._pending.find(b"\n", max(excess, _MAX_PENDING // 8) - 1) + 1 or len(self._pending)
        self.lost += self._waiting(end)
        torn = self._torn or self._pending.startswith(b"\n")
        self._pending[:end] = b"\n" if torn else b""  # the beginning of a line that is lost stays a broken line
        self._torn = b""

    def _reach(self) -> None:
        """Have an open file that is the one at `path`: ours may have been moved away, deleted, or lost by a server.

        A burst of lines looks now and then only, because a look takes as long as all the rest.
        """
        now = time.monotonic()
        if now - self._window >= _BURST:
            self._window, self._looks = now, 0
        self._looks += 1
        if self._looks > _LOOKS and self._descriptor >= 0 and self._trouble.error is None:
            return
        try:
            here = _inode(self.path.stat())
        except OSError:
            here = None
        if self._descriptor >= 0 and here == self._inode and self._trouble.error is None:
            return
        folder = self.path.parent
        if not folder.is_dir():
            if self._is_elsewhere():
                return  # the whole folder has been moved: its file is still ours
            folder.mkdir()  # not the run directory: where a disk is to be mounted again, nothing may be in its place
        before, self._descriptor = self._descriptor, self._open()
        if before not in (-1, self._descriptor):
            with contextlib.suppress(OSError):
                os.close(before)

    def _is_elsewhere(self) -> bool:
        """Whether our file has a name still."""
        try:
            return self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink > 0
        except OSError:
            return False

    def _open(self) -> int:
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            stat = os.fstat(descriptor)
            if _inode(stat) != self._inode:
                # A torn last line, of a process that died say: close it, so that it spoils itself only.
                torn = stat.st_size and os.pread(descriptor, 1, stat.st_size - 1) != b"\n"
                self._pending[:0] = (b"\n" if torn else b"") + self._torn
                self._torn, self._inode, self._is_new = b"", _inode(stat), stat.st_size == 0
        except BaseException:  # whatever ends it, the descriptor is nobody's: it would stay open
            os.close(descriptor)
            raise
        return descriptor


def _after_fork() -> None:
    for journal in _journals:
        journal._lock = threading.RLock()
        journal._pending.clear()  # the parent writes them


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _inode(stat: os.stat_result) -> _Inode:
    return stat.st_dev, stat.st_ino
