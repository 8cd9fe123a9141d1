"""The status file of any trainer: one JSON object, written anew again and again."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from expkit.lenient_json import parse_json
from expkit.opening import open_file
from expkit.record import Record
from expkit.watch.sources.base import Source
from expkit.watch.sources.fields import Fields

__all__ = ["StatusFileSource"]

_LARGEST = 1 << 26
_TRIES, _PAUSE = 5, 0.02
_UNREADABLE = 5.0  # seconds

log = logging.getLogger("expkit")


class StatusFileSource(Source):
    """Yields a record whenever the step in the file is another one. What came and went between two looks is not seen.

    Args:
        path: the file, rewritten in place or replaced; it need not be there yet.
        fields: where step, loss and so on are.

    Attributes:
        content: what was read last.
    """

    replays = False

    def __init__(self, path: Path, fields: Fields) -> None:
        self._path, self._fields = path, fields
        self._seen: tuple[int, ...] | None = None
        self._step: int | None = None
        self._unreadable: float | None = None  # since when
        self._said = False
        self.content: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def folders(self) -> Sequence[Path]:
        return (self._path.parent,)

    def read(self, last: bool = False) -> Iterator[Record]:
        content = self._load()
        if content is None:
            self._say_unreadable(last)
            return
        self.content = content
        record = self._fields.record(content, -1)
        if record is None or record.step < 0 or self._fields.notes():
            known = ", ".join(map(str, list(content)[:20]))
            said = self._fields.notes() or [f"no step and number among {known}: name them with --fields"]
            raise UserError(f"{self._path}: {said[0]}")
        if record.step == self._step:
            return
        self.generation += self._step is not None and record.step < self._step
        self._step = record.step
        yield record

    def place(self) -> Mapping[str, Any] | None:
        return {"step": self._step} if self._step is not None else None

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        self._step, self._seen = int(place["step"]), None
        return True

    def rewind(self) -> None:
        self._step, self._seen = None, None

    def _say_unreadable(self, last: bool) -> None:
        """Say once that what is there is no JSON, if it stays like that.

        Raises:
            UserError: it is, and there is no time to wait.
        """
        if self._unreadable is None:
            return
        trouble = f"{self._path} holds no JSON object, or half of one"
        if last:
            raise UserError(f"{trouble}: name the status file of a trainer")
        if not self._said and time.monotonic() - self._unreadable > _UNREADABLE:
            self._said = True
            log.warning("%s, for %.0f s: waiting for its trainer to write it anew", trouble, _UNREADABLE)

    def _load(self) -> dict[str, Any] | None:
        """Return the object in the file, if it has changed; a file that is being written is looked at again."""
        for _ in range(_TRIES):
            try:
                with open_file(self._path) as file:
                    stat = os.fstat(file.fileno())
                    seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                    if seen == self._seen:
                        return None
                    text = file.read(_LARGEST)
            except FileNotFoundError:
                return None
            try:
                content = parse_json(text)
            except ValueError:
                self._unreadable = self._unreadable or time.monotonic()
                time.sleep(_PAUSE)  # rewritten in place: half of it is there
                continue
            self._unreadable, self._said = None, False
            if not isinstance(content, dict):
                raise UserError(f"{self._path} holds no JSON object: name the status file of a trainer")
            self._seen = seen
            return content
        return None
