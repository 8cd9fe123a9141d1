"""A W&B run: in the files on this machine, or on a server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from expkit.record import Record
from expkit.wandb_data.source import QueriedRun
from expkit.watch.sources.base import Source
from expkit.watch.sources.fields import Fields

__all__ = ["OfflineWandbSource", "OnlineWandbSource"]

#: Seconds between two questions to a server, at least, and at most when it does not answer.
_ASK_EVERY, _LONGEST_PAUSE = 30.0, 600.0


class _Rows(Source):
    """Rows of a history, read from the start each time and counted: what was seen is passed over."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._rows = 0
        self._last = 0

    def read(self, last: bool = False) -> Iterator[Record]:  # noqa: ARG002 - a row is there or not
        rows = self._history()
        if rows is None:
            return
        iterator = iter(rows)
        seen = sum(1 for _ in islice(iterator, self._rows))
        if seen < self._rows:  # there are fewer than there were: it is another one now
            self.generation += 1
            self._rows = self._last = 0
            iterator = iter(rows)
        for row in iterator:
            self._rows += 1
            record = self._fields.record(row, self._last + 1)
            if record is not None:
                self._last = record.step
                yield record

    def notes(self) -> list[str]:
        return self._fields.notes()

    def place(self) -> Mapping[str, Any] | None:
        return {"rows": self._rows, "step": self._last} if self._rows else None

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        self._rows, self._last = int(place["rows"]), int(place["step"])
        return True

    def rewind(self) -> None:
        self._rows = self._last = 0

    def _history(self) -> Iterable[Mapping[str, Any]] | None:
        """Return all rows, that can be iterated more than once; None if there are no more than before."""
        raise NotImplementedError


class OfflineWandbSource(_Rows):
    """A run in W&B's own files. They are read again from the start whenever they have grown, a block at a time.

    Args:
        path: whatever `expkit wandb` takes: a run directory, a `wandb` folder, `run-*.wandb`.
        fields: where step, loss and so on are.

    Raises:
        UserError: there is no run.
    """

    def __init__(self, path: Path, fields: Fields) -> None:
        from expkit.wandb_data import read_offline

        super().__init__(fields)
        self._path = path
        self._read = read_offline
        self._parts = read_offline(path).parts
        self._size = -1

    @property
    def name(self) -> str:
        return str(self._parts[-1])

    @property
    def folders(self) -> Sequence[Path]:
        return tuple({part.parent for part in self._parts})

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        self._size = -1
        return super().go_on_from(place)

    def rewind(self) -> None:
        super().rewind()
        self._size = -1

    def _history(self) -> Iterable[Mapping[str, Any]] | None:
        run = self._read(self._path)  # a resume has begun another file
        size = sum(part.stat().st_size for part in run.parts)
        if size == self._size:
            return None
        self._parts, self._size = run.parts, size
        return run.history


class OnlineWandbSource(_Rows):
    """A run on a W&B server, asked every half minute at most; a lost connection is tried again, ever more rarely.

    A server gives a sample of at most 10,000 values of each metric.

    Args:
        run: id or name.
        project, entity: where it is; None takes what W&B is set up with.
        fields: where step, loss and so on are.
        keys: names of metrics that are asked for, those that there are.

    Raises:
        UserError: W&B is not installed, there is no key, or there is no such run.
    """

    def __init__(self, run: str, project: str | None, entity: str | None, fields: Fields, keys: Sequence[str]) -> None:
        super().__init__(fields)
        self._asked, self._keys = (project, entity), keys
        self._pause, self._not_before = _ASK_EVERY, 0.0
        try:
            self._id = self._find(run_id=run).id
        except UserError:
            self._id = self._find(name=run).id

    @property
    def name(self) -> str:
        return f"W&B run {self._id}"

    def _find(self, name: str | None = None, run_id: str | None = None) -> QueriedRun:
        from expkit.wandb_data.online import OnlineSource

        return OnlineSource(*self._asked).find(name, run_id)

    def _history(self) -> Iterable[Mapping[str, Any]] | None:
        now = time.monotonic()
        if now < self._not_before:
            return None
        try:
            run = self._find(run_id=self._id)
            known = run.names()
            rows = list(run.metrics([key for key in self._keys if key in known]))
        except UserError as error:
            self._not_before = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            raise OSError(f"{error}") from error  # it may be over later: whoever watches tries again
        self._pause, self._not_before = _ASK_EVERY, now + _ASK_EVERY
        return rows
