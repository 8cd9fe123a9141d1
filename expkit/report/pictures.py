"""Pictures of runs with their content, as many as there is room for in a report."""

from __future__ import annotations

from dataclasses import dataclass

from expkit.experiment import RunDir
from expkit.reading.pictures import read_picture

__all__ = ["EmbeddedPicture", "Room"]

_PICTURES = 48
_BYTES = 12 << 20


@dataclass(frozen=True, slots=True)
class EmbeddedPicture:
    """A picture with its content.

    Attributes:
        name: its file, in `visualizations`.
        kind: what it shows.
        step: when; None if it is of the whole run.
        media: its media type.
        content: the file.
    """

    name: str
    kind: str
    step: int | None
    media: str
    content: bytes


class Room:
    """The room for pictures that there is still."""

    def __init__(self) -> None:
        self._pictures, self._bytes = _PICTURES, _BYTES

    def take(self, run: RunDir, name: str, kind: str, step: int | None) -> EmbeddedPicture | None:
        """Return a picture if it can be read and there is room for it."""
        if self._pictures == 0:
            return None
        found = read_picture(run, name)
        if found is None or not 0 < len(found[0]) <= self._bytes:
            return None
        self._pictures -= 1
        self._bytes -= len(found[0])
        return EmbeddedPicture(name, kind, step, found[1], found[0])
