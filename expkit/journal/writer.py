"""Writing a journal: append a line and flush it; cut the file back when a run resumes from an earlier step."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from expkit.files import atomic_writer, fsync_folder, write_bytes
from expkit.journal.format import decode, encode
from expkit.journal.reader import parts_of
from expkit.record import Record

__all__ = ["Journal", "cut_journal"]

log = logging.getLogger("expkit")

_MAX_PENDING = 1 << 26


class Journal:
    """Appends records to a file: each line is handed to the operating system before `write` returns.

    A killed process loses nothing that was written; a power cut may lose what `sync` had not yet reached. When the
    disk is full, lines wait in memory (up to 64 MiB) and go out with the next write that succeeds. When somebody
    archives the file by moving it away, a new one is begun.

    Raises:
        OSError: the file cannot be opened, or the waiting lines exceed 64 MiB.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._pending = bytearray()
        self._torn = b""  # what a disk that became full has taken of the first waiting line
        self._error: OSError | None = None
        self._descriptor = self._open()

    def write(self, record: Record, flush: bool = True) -> None:
        """Append `record`. With `flush=False` it waits in memory for the next flush."""
        self.write_line(encode(record), flush)

    def write_line(self, line: bytes, flush: bool = True) -> None:
        """Append one encoded line, which ends with a newline."""
        self._pending += line
        if flush:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system."""
        if self._pending:
            self._follow()
        try:
            while self._pending:
                self._took(os.write(self._descriptor, self._pending))
        except OSError as error:
            if len(self._pending) > _MAX_PENDING:
                raise
            if self._error is None:
                log.warning("%s cannot be written (%s): its lines wait in memory", self.path, error.strerror)
            self._error = error
        else:
            if self._error is not None:
                log.warning("%s can be written again: nothing was lost", self.path)
            self._error = None

    def sync(self) -> None:
        """Flush, and make it survive a power cut. Called before a checkpoint commits, not per line.

        Raises:
            OSError: lines still wait in memory, or the disk did not confirm.
        """
        self.flush()
        if self._error is not None:
            raise self._error
        os.fsync(self._descriptor)

    def rotate(self) -> Path:
        """Move the file to the next numbered part and go on in a new one. Readers join the parts."""
        self._follow()
        self.flush()
        number = max((int(part.suffixes[-2][1:]) for part in parts_of(self.path)), default=0) + 1
        part = self.path.with_name(f"{self.path.stem}.{number:04d}{self.path.suffix}")
        os.replace(self.path, part)
        self._follow()
        return part

    def close(self) -> None:
        """Flush and close."""
        if self._descriptor >= 0:
            self.flush()
            if self._pending:
                log.error(
                    "%s could not be written: its last %d line(s) are lost", self.path, self._pending.count(b"\n")
                )
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _took(self, size: int) -> None:
        """Forget what the disk has taken of the waiting lines, all but the beginning of a line that it cut short."""
        if size == len(self._pending):
            self._pending.clear()
            self._torn = b""
            return
        taken = self._torn + self._pending[:size]
        self._torn = bytes(taken[taken.rfind(b"\n") + 1 :])
        del self._pending[:size]

    def _follow(self) -> None:
        """Go on in a new file if ours has been moved away or replaced."""
        try:
            stat = self.path.stat()
            if (stat.st_dev, stat.st_ino) == self._inode:
                return
        except OSError:
            pass
        before = self._descriptor
        try:
            self._descriptor = self._open()
        except OSError:
            return  # the whole folder has been moved: its file is still ours
        os.close(before)

    def _open(self) -> int:
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        stat = os.fstat(descriptor)
        self._inode = stat.st_dev, stat.st_ino
        # A torn last line, of a process that died say: close it, so that it spoils itself only.
        torn = stat.st_size and os.pread(descriptor, 1, stat.st_size - 1) != b"\n"
        self._pending[:0] = (b"\n" if torn else b"") + self._torn
        self._torn = b""
        return descriptor


def cut_journal(path: Path | str, step: int) -> int:
    """Cut a journal back to the entries up to and including `step`, and return how many lines were cut off.

    What is cut off is kept beside it, in `metrics.cut-N.jsonl`, and written first: a crash in between loses nothing,
    and cutting again completes it. The shortened file is a new one, whose inode tells followers to begin anew.
    """
    path = Path(path)
    kept: list[tuple[Path, int]] = []
    tail = b""
    cutting = False
    for file in [*parts_of(path), path]:
        data = file.read_bytes() if file.exists() else b""
        end = 0 if cutting else _prefix_length(data, step)
        cutting = cutting or end < len(data)
        if cutting and file.exists():
            kept.append((file, end))
            tail += data[end:]
    if not kept:
        return 0
    number = 1
    while (aside := path.with_name(f"{path.stem}.cut-{number}{path.suffix}")).exists():
        number += 1
    write_bytes(aside, tail)
    for file, end in reversed(kept):  # newest first: a crash leaves no hole
        if end or len(kept) == 1:
            with file.open("rb") as old, atomic_writer(file) as new:
                new.write(old.read(end))
        else:
            file.unlink()
            fsync_folder(file.parent)
    if not path.exists():  # made anew last of all: that is when followers begin anew
        write_bytes(path, b"")
    return tail.count(b"\n") + (not tail.endswith(b"\n"))


def _prefix_length(data: bytes, step: int) -> int:
    """Return the length of the lines of `data` before the first whose step is later than `step`."""
    position = 0
    while position < len(data):
        newline = data.find(b"\n", position)
        end = newline + 1 if newline >= 0 else len(data)
        try:
            entry = decode(data[position:end])
        except ValueError:
            if newline < 0:
                return position  # a torn line at the end
        else:
            if entry["step"] > step:
                return position
        position = end  # a broken line stays where it is
    return position
