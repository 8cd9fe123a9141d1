"""The part of a journal around some steps, read again: for who looks closer than the bins of a curve tell."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from expkit.journal.format import decode
from expkit.journal.reader import parts_of
from expkit.opening import open_file
from expkit.plots.columns import add_entries
from expkit.plots.curve import Curve

__all__ = ["Detail"]

_MOST_BYTES = 32 << 20
_NEAR = 1 << 16  # bytes within which a step is found
_LONGEST_LINE = 1 << 20
_BINS = 1024
_KEPT = 2
_BATCH = 4096
#: What still grows is not read again before so many times the seconds that reading it took.
_PATIENCE = 20


@dataclass(frozen=True, slots=True)
class _Part:
    curves: dict[str, Curve]
    records: int  # in the journal, when it was read
    ended: bool  # whether there were later entries
    fresh_until: float


class Detail:
    """Reads parts of one journal. Steps ascend in it, so a part is found by bisection.

    Args:
        journal: the file; its rotated parts are beside it.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._kept: dict[tuple[float, float], _Part | None] = {}

    def clear(self) -> None:
        """Forget what was read: the journal began anew."""
        self._kept.clear()

    def curves(self, first: float, last: float, records: int) -> dict[str, Curve] | None:
        """Return metric -> curve from about `first` to `last`, or None if that is too much to read (over 32 MB).

        Args:
            first, last: steps.
            records: how many the journal has now: what has grown since is read again.
        """
        key = first, last
        part = self._kept.get(key)
        if part is None or not (part.ended or part.records == records or time.monotonic() < part.fresh_until):
            began = time.monotonic()
            entries = self._entries(first, last)
            part = None if entries is None else _made(entries, last, records, began)
            self._kept.pop(key, None)
            self._kept[key] = part
            while len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
        return None if part is None else part.curves

    def _entries(self, first: float, last: float) -> Iterator[dict[str, Any]] | None:
        """Return the entries from shortly before `first` to the first one after `last`; None if they are too many."""
        places: list[tuple[Path, int, int]] = []
        for path in (*parts_of(self._journal), self._journal):
            with contextlib.suppress(OSError), open_file(path) as file:
                size = os.fstat(file.fileno()).st_size
                start = _find(file, size, first)
                places.append((path, start, min(size, _find(file, size, last) + 2 * _NEAR)))
        if sum(end - start for _, start, end in places) > _MOST_BYTES:
            return None
        return _read(places, last)


def _made(entries: Iterator[dict[str, Any]], last: float, records: int, began: float) -> _Part:
    curves: dict[str, Curve] = {}
    batch: list[dict[str, Any]] = []
    ended = False

    def curve(name: str) -> Curve:
        return curves.setdefault(name, Curve(bins=_BINS))

    for entry in entries:
        ended = entry["step"] > last
        batch.append(entry)
        if len(batch) == _BATCH:
            add_entries(batch, curve)
            batch = []
    if batch:
        add_entries(batch, curve)
    now = time.monotonic()
    return _Part(curves, records, ended, now + _PATIENCE * (now - began))


def _read(places: list[tuple[Path, int, int]], last: float) -> Iterator[dict[str, Any]]:
    for path, start, end in places:
        with contextlib.suppress(OSError), open_file(path) as file:
            file.seek(start)
            while file.tell() < end and (line := file.readline(_MOST_BYTES)).endswith(b"\n"):
                with contextlib.suppress(ValueError):
                    entry = decode(line)
                    yield entry
                    if entry["step"] > last:
                        return


def _find(file: BinaryIO, size: int, step: float) -> int:
    """Return where a line begins that is before all entries of `step` and later, by at most about 64 KB; or 0."""
    low, high = 0, size
    while high - low > _NEAR:
        middle = (low + high) // 2
        found = _line_after(file, middle)
        if found is not None and found[0] < high and found[1] < step:
            low = found[0]
        else:
            high = middle
    return low


def _line_after(file: BinaryIO, offset: int) -> tuple[int, int] | None:
    """Return where the first readable line behind `offset` begins, and its step; None if none is near."""
    file.seek(offset)
    file.readline(_LONGEST_LINE)  # the rest of the line that it is in
    for _ in range(3):
        begin = file.tell()
        with contextlib.suppress(ValueError):
            return begin, decode(file.readline(_LONGEST_LINE))["step"]
    return None
