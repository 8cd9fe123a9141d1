"""The curves of a journal, read on from where the last reading ended."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.journal import JournalReader
from expkit.plots.columns import add_entries
from expkit.plots.curve import Curve
from expkit.record import RESERVED

__all__ = ["JournalCurves"]

_MOST = 1000
_BATCH = 1000  # entries


class JournalCurves:
    """The curves of a journal, in bounded memory.

    Args:
        path: of metrics.jsonl.
        wanted: says which metrics are kept, by their names.
        structured: name of a structured value (of a record's `details`) that is kept too.

    Attributes:
        found: (step, value) of the structured value, for each record that has one; every other one of many.
    """

    def __init__(self, path: Path, wanted: Callable[[str], bool], structured: str | None = None) -> None:
        self.path = path
        self._wanted, self._structured = wanted, structured
        self._reader = JournalReader(path)
        self._generation = 0
        self._ahead: deque[Mapping[str, Any]] = deque()
        self._curves: dict[str, Curve] = {}
        self.found: list[tuple[int, Any]] = []
        weakref.finalize(self, self._reader.close)  # plots have no end of their own

    def read(self, until: int) -> Mapping[str, Curve]:
        """Return the curves up to the step `until`: training goes on while a picture is drawn."""
        batch: list[Mapping[str, Any]] = []
        while self._ahead and self._ahead[0]["step"] <= until:
            batch.append(self._ahead.popleft())
        for entry in self._reader:
            if self._clear_if_anew():
                batch = []
            if self._ahead or entry["step"] > until:
                self._ahead.append(entry)
            else:
                batch.append(entry)
            if len(batch) == _BATCH:
                self._take(batch)
                batch = []
        if not self._clear_if_anew():  # the journal may have been cut back to nothing
            self._take(batch)
        return self._curves

    def _take(self, batch: Sequence[Mapping[str, Any]]) -> None:
        add_entries(batch, self._curve)
        for entry in batch:
            self._take_structured(entry)

    def _curve(self, name: str) -> Curve | None:
        if name in RESERVED or not self._wanted(name):
            return None
        return self._curves.setdefault(name, Curve())

    def _take_structured(self, entry: Mapping[str, Any]) -> None:
        structured = entry.get("details", {}).get(self._structured)
        if structured is not None:
            self.found.append((entry["step"], structured))
            if len(self.found) > _MOST:
                del self.found[1::2]

    def _clear_if_anew(self) -> bool:
        anew = self._reader.generation != self._generation
        if anew:
            self._generation = self._reader.generation
            self._ahead.clear()
            self._curves, self.found = {}, []
        return anew
