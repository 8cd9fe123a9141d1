"""A W&B run: in the files on this machine, or on a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.record import Record
from expkit.wandb_data.following import FollowedRun
from expkit.wandb_data.source import NoAnswerError
from expkit.watch.sources.base import Source
from expkit.watch.sources.fields import Fields

__all__ = ["WandbSource"]


class WandbSource(Source):
    """Follows a run.

    Args:
        run: the run.
        name: what it was called by whoever named it, the same after a kill.
        fields: where step, loss and so on are.
    """

    def __init__(self, run: FollowedRun, name: str, fields: Fields) -> None:
        self._run, self._name, self._fields = run, name, fields

    @property
    def name(self) -> str:
        return self._name

    @property
    def folders(self) -> Sequence[Path]:
        return self._run.folders

    def read(self, last: bool = False) -> Iterator[Record]:  # noqa: ARG002 - a row is there or not
        try:
            for row in self._run.poll():
                self.generation = self._run.generation
                record = self._fields.record(row, row["_step"])
                if record is not None:
                    yield record
        except NoAnswerError as error:
            raise OSError(f"{error}") from error  # it may be over later: whoever watches tries again
        self.generation = self._run.generation

    def notes(self) -> list[str]:
        return [*self._run.notes, *self._fields.notes()]

    def place(self) -> Mapping[str, Any] | None:
        return self._run.place()

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        self._run.go_on_from(place)
        return True

    def rewind(self) -> None:
        self._run.rewind()
