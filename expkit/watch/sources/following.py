"""What files that grow by lines have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from expkit.record import Record
from expkit.tail import FileTail
from expkit.watch.sources.base import Source

__all__ = ["FollowedFile"]

T = TypeVar("T")


class FollowedFile(Source, Generic[T]):
    """Follows a file line by line, over rotations, cuts and replacements.

    Args:
        reader: of the file.
    """

    def __init__(self, reader: FileTail[T]) -> None:
        self._reader = reader

    @property
    def name(self) -> str:
        return str(self._reader.path)

    @property
    def folders(self) -> Sequence[Path]:
        return (self._reader.path.parent,)

    def read(self, last: bool = False) -> Iterator[Record]:
        for entry in self._reader:
            self.generation = self._reader.generation
            yield self.to_record(entry)
        self.generation = self._reader.generation
        if last and (torn := self._reader.torn()) is not None:
            yield self.to_record(torn)

    def to_record(self, entry: T) -> Record:
        """Return the record of what was in a line."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        number = self._reader.broken
        return [f"{number} line(s) of {self._reader.path} could not be understood"] if number else []

    def place(self) -> Mapping[str, Any] | None:
        return self._reader.place()

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        return self._reader.go_on_from(place)

    def rewind(self) -> None:
        self._reader.close()

    def close(self) -> None:
        self._reader.close()
