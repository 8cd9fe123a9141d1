"""What a source is: it yields records as they come, and can say, and find again, where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.record import Record

__all__ = ["Source"]


class Source:
    """Base class of what is watched.

    Attributes:
        generation: how often what is read began anew. Records then come from the start, if the source `replays`.
        replays: whether all records can be read again from the start. If not, only the newest one is there to see.
    """

    generation: int = 0
    replays: bool = True

    @property
    def name(self) -> str:
        """What is watched, for people."""
        raise NotImplementedError

    @property
    def folders(self) -> Sequence[Path]:
        """The folders in which something changes when there is more to read; empty if nobody can tell."""
        return ()

    def prelude(self) -> Iterator[Record]:
        """Yield what the detectors are to know before the first record."""
        return iter(())

    def read(self, last: bool = False) -> Iterator[Record]:
        """Yield what is new, in bounded memory, then end.

        Args:
            last: nothing more will come: what has no end yet is yielded as it is.

        Raises:
            UserError: what is there is something else, and always will be.
            OSError: it cannot be read now.
        """
        raise NotImplementedError

    def resumed(self, after: float, until: float) -> bool:
        """Whether the trainer was started again between two times, in seconds since 1970."""
        return False

    def notes(self) -> list[str]:
        """Return what has to be said of what was read, one sentence each."""
        return []

    def place(self) -> Mapping[str, Any] | None:
        """Return where it stands, behind all that was yielded, as plain JSON values; None if that cannot be told."""
        raise NotImplementedError

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        """Go on from a `place` of before. Return False, and begin at the start, if it is no more."""
        raise NotImplementedError

    def rewind(self) -> None:
        """Begin at the start."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open."""
