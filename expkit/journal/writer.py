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
    disk is full, lines wait in memory (up to 64 MiB) and go out with the next write that succeeds.

    Raises:
        OSError: the file cannot be opened, or the waiting lines exceed 64 MiB.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._pending = b""
        self._failing = False
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
        try:
            while self._pending:
                # A short write (the disk has just become full) leaves the rest for the next time.
                self._pending = self._pending[os.write(self._descriptor, self._pending) :]
        except OSError as error:
            if len(self._pending) > _MAX_PENDING:
                raise
            if not self._failing:
                log.warning("%s cannot be written (%s): its lines wait in memory", self.path, error.strerror)
            self._failing = True
        else:
            if self._failing:
                log.warning("%s can be written again: nothing was lost", self.path)
            self._failing = False

    def sync(self) -> None:
        """Flush, and make it survive a power cut. Called before a checkpoint commits, not per line."""
        self.flush()
        os.fsync(self._descriptor)

    def rotate(self) -> Path:
        """Move the file to the next numbered part and go on in a new one. Readers join the parts."""
        self.flush()
        number = max((int(part.suffixes[-2][1:]) for part in parts_of(self.path)), default=0) + 1
        part = self.path.with_name(f"{self.path.stem}.{number:04d}{self.path.suffix}")
        os.replace(self.path, part)
        os.close(self._descriptor)
        self._descriptor = self._open()
        return part

    def close(self) -> None:
        """Flush and close."""
        if self._descriptor >= 0:
            self.flush()
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> int:
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # A torn last line of a process that died: close it, so that it spoils itself only.
            self._pending = b"\n" + self._pending
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
        if end < len(data):
            kept.append((file, end))
            tail += data[end:]
    if not kept:
        return 0
    number = 1
    while (aside := path.with_name(f"{path.stem}.cut-{number}{path.suffix}")).exists():
        number += 1
    write_bytes(aside, tail)
    for file, end in reversed(kept):
        if end == 0 and file != path:
            file.unlink()
            fsync_folder(file.parent)
            continue
        with file.open("rb") as old, atomic_writer(file) as new:
            new.write(old.read(end))
    return tail.count(b"\n") + (not tail.endswith(b"\n"))


def _prefix_length(data: bytes, step: int) -> int:
    """Return the length of the whole lines of `data` before the first whose step is later than `step`."""
    position = 0
    while (newline := data.find(b"\n", position)) >= 0:
        try:
            entry = decode(data[position : newline + 1])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            pass  # a broken line stays where it is
        else:
            if entry["step"] > step:
                return position
        position = newline + 1
    return position
