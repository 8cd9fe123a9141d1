"""A log file: JSONL, or lines for people with numbers in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from expkit.lenient_json import parse_json
from expkit.record import Record
from expkit.tail import FileTail
from expkit.watch.sources.fields import Fields, parse_line
from expkit.watch.sources.following import FollowedFile

__all__ = ["LogFileSource"]


class LogFileSource(FollowedFile[Record]):
    """Follows a log file that another trainer writes. Lines in which there is nothing to watch are counted.

    Args:
        path: the file; it need not be there yet.
        fields: where step, loss and so on are.
        pattern: a regular expression whose named groups are the numbers: `step (?P<step>\\d+) loss (?P<loss>\\S+)`.
            Without one a line is a JSON object, or has names and numbers: `step 10 | loss 0.5`, `step=10 loss: 0.5`.

    Raises:
        UserError: the pattern is no regular expression, or has no named group.
    """

    def __init__(self, path: Path, fields: Fields, pattern: str | None = None) -> None:
        super().__init__(FileTail(path, self._decode))
        self._fields = fields
        self._last = 0  # the step of the last record
        try:
            self._pattern = re.compile(pattern) if pattern is not None else None
        except re.error as error:
            raise UserError(f"--pattern {pattern}: this is no regular expression: {error}") from None
        if self._pattern is not None and not self._pattern.groupindex:
            raise UserError(f"--pattern {pattern}: name the groups: step (?P<step>\\d+) loss (?P<loss>\\S+)")

    def to_record(self, entry: Record) -> Record:
        return entry

    def notes(self) -> list[str]:
        return [*super().notes(), *self._fields.notes()]

    def place(self) -> Mapping[str, Any] | None:
        place = self._reader.place()
        return {**place, "step": self._last} if place is not None else None

    def go_on_from(self, place: Mapping[str, Any]) -> bool:
        self._last = int(place["step"])
        return super().go_on_from(place)

    def rewind(self) -> None:
        self._last = 0
        super().rewind()

    def _decode(self, line: bytes) -> Record:
        entry: Any = None
        if self._pattern is not None:
            found = self._pattern.search(line.decode(errors="replace"))
            entry = found.groupdict() if found is not None else None
        elif line.lstrip().startswith(b"{"):
            try:
                entry = parse_json(line)
            except ValueError:
                entry = parse_line(line.decode(errors="replace"))  # as Python prints a dictionary
        else:
            entry = parse_line(line.decode(errors="replace"))
        record = self._fields.record(entry, self._last + 1) if isinstance(entry, dict) else None
        if record is None:
            raise ValueError("nothing to watch in it")
        self._last = record.step
        return record
