"""The watcher's own file of events: each is there once, however often the watcher is killed or the run resumed.

It is compared with, not trusted: what the detectors find again after a kill, or from the start after a resume, is held
against the lines that follow. The same line: it is there. Another one: what follows is of a time that the run has gone
back behind, and is set aside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from expkit.events import BY_THE_CLOCK
from expkit.files import write_bytes
from expkit.opening import lines_of, open_file

__all__ = ["EventFile"]


class EventFile:
    """Appends events to `path`, those that are not there yet.

    Args:
        path: the file; made with the first event.
        replays: whether all events come again from the start when the source is read from there. If not, nothing is
            set aside: what does not come again has happened all the same.
        on_cut: called with the length that the file is about to be cut to.

    Attributes:
        offset: bytes of the file that belong to the events so far; what follows is from before a kill, or a resume.
    """

    def __init__(self, path: Path, replays: bool = True, on_cut: Callable[[int], object] = lambda _: None) -> None:
        self.path, self._replays, self._on_cut = path, replays, on_cut
        self.offset = 0
        self._start = 0  # of the event that was read last
        self._clocked = {_key(line) for line in self._lines()}

    def go_on_from(self, offset: int) -> bool:
        """Go on behind so many bytes. Return False, and begin at the start, if a disk has lost some of them."""
        there = self._size()
        self.offset = offset if offset <= there else 0
        return offset <= there

    def rewind(self) -> None:
        """Begin at the start: every event will come again. At the end, if they do not."""
        self.offset = 0 if self._replays else self._size()

    def add(self, entry: Mapping[str, Any]) -> bool:
        """Take the next event. Return whether it is new to the file.

        Raises:
            OSError: the disk refuses; the event is not taken.
        """
        if entry["kind"] in BY_THE_CLOCK:
            if _key(entry) in self._clocked:
                return False
            self._append(entry)
            self._clocked.add(_key(entry))
            return True
        following = self._following()
        while following is not None and _key(following) != _key(entry) and not self._replays:
            following = self._following()
        if following is not None and _key(following) == _key(entry):
            return False
        self.settle(following)
        self._append(entry)
        return True

    def settle(self, following: Mapping[str, Any] | None = None) -> None:
        """Set aside what follows, in `watch_events.cut-1.jsonl` and so on: it did not come again.

        Raises:
            OSError: the disk refuses; all is as it was.
        """
        if following is None:
            following = self._following()
        if following is None or not self._replays:
            self.offset = max(self.offset, self._size())
            return
        start = self._start
        self._on_cut(start)
        with open_file(self.path) as file:
            kept, rest = file.read(start), file.read().splitlines(keepends=True)
        stay, gone = b"", b""
        for line in rest:  # what goes by the clock has happened all the same
            entry = _parsed(line)
            if entry is not None and entry["kind"] in BY_THE_CLOCK:
                stay += line
            else:
                gone += line
        number = 1
        while (aside := self.path.with_name(f"{self.path.stem}.cut-{number}{self.path.suffix}")).exists():
            number += 1
        write_bytes(aside, gone)
        write_bytes(self.path, kept + stay)
        self.offset = len(kept) + len(stay)

    def _following(self) -> dict[str, Any] | None:
        """Return the next event behind `offset` and go behind it, past what is torn or by the clock."""
        if self.offset >= self._size():
            return None
        with open_file(self.path) as file:
            file.seek(self.offset)
            for line in lines_of(file):
                self._start = self.offset
                self.offset += len(line)
                entry = _parsed(line)
                if entry is not None and entry["kind"] not in BY_THE_CLOCK:
                    return entry
        return None

    def _append(self, entry: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
            line = (b"\n" if torn else b"") + orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
            if os.write(descriptor, line) < len(line):
                raise OSError(28, os.strerror(28), str(self.path))  # the next try finds a torn line
        finally:
            os.close(descriptor)
        if self.offset >= size:  # else what is there is still to be compared
            self.offset = size + len(line)

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def _lines(self) -> list[dict[str, Any]]:
        """Return the events by the clock."""
        if not self._size():
            return []
        with open_file(self.path) as file:
            return [
                entry
                for line in lines_of(file)
                if (entry := _parsed(line)) is not None and entry["kind"] in BY_THE_CLOCK
            ]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = orjson.loads(line)
        return entry if {"detector", "kind", "step", "message"} <= entry.keys() else None
    except (ValueError, AttributeError):
        return None


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    if entry["kind"] in BY_THE_CLOCK:
        return entry["detector"], entry["kind"], entry["step"]
    return entry["detector"], entry["kind"], entry["step"], entry["message"]
