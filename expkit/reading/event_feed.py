"""The events of a run, read on from where the last reading ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expkit.events import decode_event
from expkit.tail import FileTail

__all__ = ["EventFeed"]

_KEPT = 1000
_LATEST = 2.5e11  # seconds since 1970: the year 9892


class EventFeed:
    """Follows files of events: that of a run, and that of a watcher beside it."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [_Events(path) for path in paths]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The last 1000, in the order of their time. `time` is a number in all of them, 0 where it is not known."""
        found = [entry for file in self._files for entry in file.entries]
        return sorted(found, key=lambda entry: entry["time"])[-_KEPT:]

    def refresh(self) -> bool:
        """Read what is new; return whether there was anything.

        Raises:
            OSError: a file is there, and cannot be read now.
        """
        return any([file.refresh() for file in self._files])

    def clear_if_gone(self) -> None:
        """Forget what was read of files that are there no more."""
        for file in self._files:
            file.clear_if_gone()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.reader.close()


class _Events:
    """Follows one file of events."""

    def __init__(self, path: Path) -> None:
        self.reader = FileTail(path, _decode)
        self.entries: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._generation = 0

    def refresh(self) -> bool:
        """Read what is new; return whether there was anything."""
        changed = False
        for entry in self.reader:
            self._clear_if_anew()
            self.entries.append(entry)
            changed = True
        return self._clear_if_anew() or changed

    def clear_if_gone(self) -> None:
        """Forget what was read if the file is there no more."""
        if not self.reader.path.exists():
            self.reader.close()
            self.entries.clear()

    def _clear_if_anew(self) -> bool:
        anew = self.reader.generation != self._generation
        if anew:
            self._generation = self.reader.generation
            self.entries.clear()
        return anew


def _decode(line: bytes) -> dict[str, Any]:
    entry = decode_event(line)
    moment: Any = entry.get("time")
    known = type(moment) in (int, float) and 0 <= moment < _LATEST
    return {**entry, "time": float(moment) if known else 0.0}
