"""Following a W&B run: the rows of its history that are new at each look, in files on this machine or on a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.wandb_data.source import NoAnswerError, Row

if TYPE_CHECKING:
    from expkit.wandb_data.online import OnlineRun, OnlineSource

__all__ = ["FollowedFiles", "FollowedOnline", "FollowedRun"]

#: Seconds until a server that did not answer is asked again: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class FollowedRun:
    """Base class.

    Attributes:
        name: for people.
        state: what W&B says of the run; empty before the first look.
        notes: what a reader of the figures has to know, one sentence each.
        generation: how often the history began anew. All rows then come again.
        folders: in which something changes when there is more to read; empty if nobody can tell.
    """

    name: str
    state: str = ""
    notes: Sequence[str] = ()
    generation: int = 0
    folders: Sequence[Path] = ()

    def poll(self) -> Iterator[Row]:
        """Yield the rows that are new, in the order of their steps.

        Raises:
            UserError: there is no such run.
            NoAnswerError: the server does not answer now; it is asked again later, ever more rarely.
            OSError: a file cannot be read now.
        """
        raise NotImplementedError

    def place(self) -> dict[str, Any] | None:
        """Return where it stands, behind all rows that were yielded, as plain JSON values; None if at the start."""
        raise NotImplementedError

    def go_on_from(self, place: Mapping[str, Any]) -> None:
        """Go on from a `place` of before."""
        raise NotImplementedError

    def rewind(self) -> None:
        """Begin at the start."""
        raise NotImplementedError


class FollowedFiles(FollowedRun):
    """A run in W&B's own files. They are read from the start whenever they have grown; what was seen is passed over.

    Args:
        path: whatever `read_offline` takes.

    Raises:
        UserError: there is no run.
    """

    def __init__(self, path: Path) -> None:
        from expkit.wandb_data.offline import read_offline

        self._path, self._read = path, read_offline
        run = read_offline(path)
        self.name = f"{run.name} ({run.id}), {run.place}"
        self.folders = tuple({part.parent for part in run.parts})
        self._rows = 0
        self._which: list[Any] = []
        self._sizes: list[int] | None = None

    def poll(self) -> Iterator[Row]:
        """Yield the new rows; W&B writes every 15 seconds or 32 KiB."""
        run = self._read(self._path)  # a resume has begun another file
        sizes = [part.stat().st_size for part in run.parts]
        if sizes == self._sizes:
            return
        rows, which = iter(run.history), [run.id, run.began]
        seen = sum(1 for _ in islice(rows, self._rows))
        if seen < self._rows or (self._rows and self._which != which):  # it is another run now
            self.generation += 1
            self._rows, rows = 0, iter(run.history)
        self._which = which
        for row in rows:
            self._rows += 1
            yield row
        self._sizes, self.state, self.notes = sizes, run.state, run.notes

    def place(self) -> dict[str, Any] | None:
        """Return how many rows were read, and of what."""
        return {"rows": self._rows, "which": self._which} if self._rows else None

    def go_on_from(self, place: Mapping[str, Any]) -> None:
        """Pass over so many rows."""
        self.rewind()
        self._rows, self._which = int(place["rows"]), list(place["which"])

    def rewind(self) -> None:
        """Begin at the start."""
        self._rows, self._which, self._sizes = 0, [], None


class FollowedOnline(FollowedRun):
    """A run on a W&B server. Only what is new is asked for, and nothing where the run has nothing new.

    A connection that is lost is opened anew. As long as it is lost every look says so, but the server is asked after 5,
    10, 20 ... 300 seconds only.

    Args:
        run: id or name.
        project, entity, timeout: see `OnlineSource`.
        groups: returns which of the names in the history are asked for, in groups that are logged together.
        every: seconds between two questions, at least.
    """

    def __init__(
        self,
        run: str,
        project: str | None,
        entity: str | None,
        groups: Callable[[Sequence[str]], Sequence[Sequence[str]]],
        timeout: int = 10,
        every: float = 0.0,
    ) -> None:
        self.name = f"{run} on the W&B server"
        self._asked, self._place, self._groups, self._every = run, (project, entity, timeout), groups, every
        self._id: str | None = None
        self._source: OnlineSource | None = None
        self._said: set[str] = set()
        self._trouble: str | None = None
        self._pause, self._not_before = _FIRST_PAUSE, 0.0
        self._last, self._extent = -1, (0, -1)
        self._counts: Mapping[str, int] = {}

    def poll(self) -> Iterator[Row]:
        """Yield the new rows."""
        if time.monotonic() < self._not_before:
            if self._trouble is not None:
                raise NoAnswerError(self._trouble)
            return
        source, self._source = self._source, None  # whatever fails, the next question has a new connection
        try:
            source = source or self._connected()
            run = source.named(self._asked) if self._id is None else source.find(run_id=self._id)
            rows = self._new(run)
        except NoAnswerError as error:
            self._trouble, self._not_before = str(error), time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            raise
        self._source, self._trouble, self._pause = source, None, _FIRST_PAUSE
        self._not_before = time.monotonic() + self._every
        self._id, self.name = run.id, f"{run.name} ({run.id}), {run.place}"
        for row in rows:
            self._last = int(row["_step"])
            yield row
        self._extent, self._counts = run.extent, run.counts
        self.state, self.notes = run.state, list(run.notes)

    def place(self) -> dict[str, Any] | None:
        """Return the last step, and how much there was then."""
        if self._last < 0:
            return None
        return {"run": self._id, "step": self._last, "extent": list(self._extent), "counts": dict(self._counts)}

    def go_on_from(self, place: Mapping[str, Any]) -> None:
        """Ask for what is behind a step."""
        self._id, self._last = str(place["run"]), int(place["step"])
        self._extent, self._counts = (int(place["extent"][0]), int(place["extent"][1])), dict(place["counts"])

    def rewind(self) -> None:
        """Begin at the start."""
        self._last, self._extent, self._counts = -1, (0, -1), {}

    def _connected(self) -> OnlineSource:
        from expkit.wandb_data.online import OnlineSource

        return OnlineSource(*self._place, said=self._said)

    def _new(self, run: OnlineRun) -> list[Row]:
        """Return the rows behind the last step."""
        if run.extent == self._extent:
            return []
        if run.extent[1] < self._extent[1]:  # rewound, or deleted and begun anew
            self.generation += 1
            self.rewind()
        rows: dict[int, dict[str, Any]] = {}
        for row in run.grouped(self._groups(run.names()), self._last, self._counts):
            if row["_step"] > self._last:
                rows.setdefault(row["_step"], {}).update(row)
        return [rows[step] for step in sorted(rows)]
