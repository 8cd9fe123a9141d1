"""Cutting a journal back when a run resumes from an earlier step."""

from __future__ import annotations

from pathlib import Path

from expkit.files import atomic_writer, fsync_folder, write_bytes
from expkit.journal.format import decode
from expkit.journal.reader import parts_of
from expkit.opening import open_file

__all__ = ["cut_journal", "cut_needs"]


def cut_journal(path: Path | str, step: int) -> int:
    """Cut a journal back to the entries up to and including `step`, and return how many lines were cut off.

    What is cut off is kept beside it, in `metrics.cut-N.jsonl`, and written first: a crash in between loses nothing,
    and cutting again completes it. The shortened file is a new one, whose inode tells followers to begin anew.

    Raises:
        OSError: the disk refuses. No line is lost, and cutting again completes it.
    """
    path = Path(path)
    kept, tail = _divide(path, step)
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
    return _lines(tail)


def cut_needs(path: Path | str, step: int) -> tuple[int, int]:
    """Return how many lines `cut_journal` would cut off, and how many bytes it would write."""
    kept, tail = _divide(Path(path), step)
    return (_lines(tail), len(tail) + sum(end for _, end in kept)) if kept else (0, 0)


def _divide(path: Path, step: int) -> tuple[list[tuple[Path, int]], bytes]:
    """Return the files to shorten, each with the length to keep, oldest first; and what is cut off of them."""
    kept: list[tuple[Path, int]] = []
    tail = b""
    cutting = False
    for file in [*parts_of(path), path]:
        data = b""
        if file.exists():
            with open_file(file) as there:
                data = there.read()
        end = 0 if cutting else _prefix_length(data, step)
        cutting = cutting or end < len(data)
        if cutting and file.exists():
            kept.append((file, end))
            tail += data[end:]
    return kept, tail


def _lines(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n"))


def _prefix_length(data: bytes, step: int) -> int:
    """Return the length of the lines of `data` before the first whose step is later than `step`."""
    position = 0
    while position < len(data):
        newline = data.find(b"\n", position)
        end = newline + 1 if newline >= 0 else len(data)
        if (line := data[position:end]).isspace():
            position = end
            continue
        try:
            entry = decode(line)
        except ValueError:
            if newline < 0:
                return position  # a torn line at the end
        else:
            if entry["step"] > step:
                return position
        position = end  # a broken line stays where it is
    return position
