"""What the queries ask of a run and of a place with runs, be it a folder or a W&B server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from expkit.errors import UserError

__all__ = ["SYSTEM", "NoAnswerError", "QueriedRun", "Row", "Source"]

#: One row of history or of the system stream: name -> value. `_step` or `_timestamp` says when.
Row = Mapping[str, Any]

#: What W&B's server puts before the names of the system stream; they are listed so, and asked for without it.
SYSTEM = "system."


class NoAnswerError(UserError):
    """A server did not answer, several times: it may do so later."""

    hangs = True  # what W&B does at the end of a process may wait for it, without end


class QueriedRun(Protocol):
    """One run.

    Attributes:
        id, name, state, created: how W&B knows it; `created` is ISO 8601, or empty if unknown.
        place: the run's address on the server, or the path of its newest file.
        local: whether `place` is a path.
        notes: what a reader of the figures has to know, one sentence each; complete once they were read.
        system: rows of the system stream, names without their prefix.
    """

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def created(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def local(self) -> bool: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def system(self) -> Iterable[Row]: ...

    def names(self) -> list[str]:
        """Return the names of all metrics in the history."""
        ...

    def system_names(self) -> list[str]:
        """Return the names of all metrics in the system stream, without their prefix."""
        ...

    def metrics(self, keys: Sequence[str]) -> Iterable[Row]:
        """Return the rows of the history that have any of `keys`, and of them only these, in order of their steps."""
        ...


class Source(Protocol):
    """A place with runs."""

    def runs(self, limit: int) -> Sequence[QueriedRun]:
        """Return at most `limit` runs, the newest first."""
        ...

    def find(self, name: str | None = None, run_id: str | None = None) -> QueriedRun:
        """Return the newest run that has this name (its display name, or `run_name` in its configuration) or id.

        Without either, the newest of all.

        Raises:
            UserError: there is none.
        """
        ...
