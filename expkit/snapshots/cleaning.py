"""Which snapshots may go, what that frees, and removing one so that nobody sees half of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from expkit.errors import UserError
from expkit.snapshots.reading import Snapshot, file_stats, verify

__all__ = ["Retention", "freed_by", "parse_age", "parse_size", "remove", "size_on_disk"]

_UNITS = {"b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class Retention:
    """Which snapshots need not stay. Those of best models stay, unless their kind is named, and the newest always.

    Args:
        older_than: only those of at least this age.
        kinds: only those of these kinds; empty: of all but best_model.
        max_size: bytes; the newest that fit stay, older ones go whatever their age. A file with several names counts
            once.
    """

    older_than: timedelta | None = None
    kinds: tuple[str, ...] = ()
    max_size: int | None = None

    def removable(self, snapshots: Sequence[Snapshot], now: datetime | None = None) -> list[Snapshot]:
        """Return those of `snapshots` (all of a run) that may go, oldest first. Nothing is removed.

        Args:
            snapshots: all snapshots of a run.
            now: the time of day.
        """
        now = now or datetime.now()
        candidates = [each for each in snapshots if self._is_candidate(each)]
        best = {each.path for each in _newest_best(snapshots)} if any(each.is_best for each in candidates) else set()
        candidates = [each for each in candidates if each.path not in best]
        gone = {each.path for each in candidates if self._is_old(each, now)}
        if self.max_size is not None:
            gone |= self._too_much([each for each in snapshots if each.path not in gone], candidates)
        return [each for each in snapshots if each.path in gone]

    def _is_candidate(self, snapshot: Snapshot) -> bool:
        return any(map(snapshot.is_of, self.kinds)) if self.kinds else not snapshot.is_best

    def _is_old(self, snapshot: Snapshot, now: datetime) -> bool:
        if self.older_than is not None:
            return now - snapshot.time >= self.older_than
        return self.max_size is None and bool(self.kinds)

    def _too_much(self, snapshots: Sequence[Snapshot], candidates: Sequence[Snapshot]) -> set[Path]:
        """Return the candidates that do not fit, where what is no candidate comes first, then the newest."""
        may_go = {each.path for each in candidates}
        held = {key: size for each in snapshots if each.path not in may_go for key, size, _ in _files(each)}
        left = [each.path for each in snapshots if each.path in may_go]  # oldest first
        by_path = {each.path: each for each in snapshots}
        while left:
            held |= {key: size for key, size, _ in _files(by_path[left[-1]])}
            if sum(held.values()) > (self.max_size or 0):
                break
            left.pop()
        return set(left)


def remove(snapshot: Snapshot) -> None:
    """Remove a snapshot. What it shares with checkpoints or other snapshots stays there, and links are not followed.

    Raises:
        OSError: it cannot be removed.
    """
    going = snapshot.path.with_name(f".{snapshot.path.name}.{os.getpid()}.gone.tmp")
    os.replace(snapshot.path, going)  # at once: a reader never sees half of it
    shutil.rmtree(going)


def size_on_disk(snapshots: Iterable[Snapshot]) -> int:
    """Return the bytes that snapshots hold, a file with several names counted once."""
    return sum({key: size for each in snapshots for key, size, _ in _files(each)}.values())


def freed_by(snapshots: Iterable[Snapshot]) -> int:
    """Return the bytes that removing all of these would free: not those of files that have a name elsewhere."""
    names: dict[tuple[int, int], int] = {}
    known = {}
    for snapshot in snapshots:
        for key, size, links in _files(snapshot):
            names[key] = names.get(key, 0) + 1
            known[key] = (size, links)
    return sum(size for key, (size, links) in known.items() if names[key] >= links)


def parse_age(text: str) -> timedelta:
    """Return the time that `30d`, `12h`, `90min`, `2w` or `45s` stands for.

    Raises:
        UserError: it is none of these.
    """
    number, unit = _parse(text)
    if number is None or unit not in _SECONDS:
        raise UserError(f"--older-than {text}: write a number and s, min, h, d or w: 30d")
    try:
        return timedelta(seconds=number * _SECONDS[unit])
    except OverflowError:
        return timedelta.max


def parse_size(text: str) -> int:
    """Return the bytes that `10GB` or `500MB` (of 1024) stands for; a number alone may be meant as any of them.

    Raises:
        UserError: it is none of these.
    """
    number, unit = _parse(text)
    if number == 0:
        return 0
    if number is None or unit not in _UNITS:
        raise UserError(f"--max-size {text}: write a number and KB, MB, GB or TB: 10GB")
    return int(number * _UNITS[unit])


def _parse(text: str) -> tuple[float | None, str]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    return (float(match[1]), match[2]) if match else (None, "")


def _newest_best(snapshots: Sequence[Snapshot]) -> Iterator[Snapshot]:
    """Yield the newest snapshot of a best model; where it is damaged those before it too, up to an intact one."""
    for snapshot in sorted((each for each in snapshots if each.is_best), key=lambda each: each.time, reverse=True):
        yield snapshot
        try:
            if verify(snapshot) is None:
                return
        except OSError:
            continue


def _files(snapshot: Snapshot) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Yield (device, inode), bytes and number of names of each file."""
    for found in file_stats(snapshot.path):
        yield (found.st_dev, found.st_ino), found.st_size, found.st_nlink
