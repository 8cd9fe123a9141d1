"""The journal of a run directory, the same records that its own detectors see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.experiment import RunDir
from expkit.journal import JournalReader, to_record
from expkit.record import Record
from expkit.watch.sources.base import Source

__all__ = ["JournalSource"]


class JournalSource(Source):
    """Follows `logs/metrics.jsonl` of a run, with its rotated parts, over resumes that cut it back."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._reader = JournalReader(run.metrics)
        self._before = 0  # generations of readers that were closed

    @property
    def name(self) -> str:
        return str(self._run.root)

    @property
    def folders(self) -> Sequence[Path]:
        return (self._run.logs,)

    @property
    def broken(self) -> int:
        """How many lines could not be read."""
        return self._reader.broken

    def read(self, last: bool = False) -> Iterator[Record]:
        for entry in self._reader:
            self.generation = self._before + self._reader.generation
            yield to_record(entry)
        self.generation = self._before + self._reader.generation
        if last and (torn := self._reader.torn()) is not None:
            yield to_record(torn)

    def place(self) -> Mapping[str, Any] | None:
        return self._reader.place()

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        return self._reader.go_on_from(place)

    def rewind(self) -> None:
        self._reader.close()
