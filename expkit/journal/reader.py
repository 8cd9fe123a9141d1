"""Reading a journal: whole, or following it while it grows, in bounded memory.

A line that cannot be read is skipped and counted. A torn last line is left until its end arrives.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expkit.journal.format import decode
from expkit.tail import FileTail

__all__ = ["JournalReader", "parts_of", "read_journal"]

log = logging.getLogger("expkit")


def parts_of(path: Path) -> list[Path]:
    """Return the rotated parts of the journal at `path` (metrics.0001.jsonl, ...), oldest first."""
    name = re.compile(rf"{re.escape(path.stem)}\.(\d{{4,}}){re.escape(path.suffix)}")
    found = [(int(match[1]), file) for file in path.parent.glob("*") if (match := name.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


class JournalReader(FileTail[dict[str, Any]]):
    """Follows a journal. Each iteration yields the entries that are new since the last one, then ends.

    Rotated parts are read first, and the file may not be there yet. When the journal was cut back (after a resume) or
    replaced, `generation` goes up by one and the entries come again from the start. Who leaves an iteration early
    finds the rest in the next one.

    Args:
        path: the file.

    Attributes:
        broken: how many lines could not be read.
        generation: how often the journal began anew under the reader.
    """

    _reads_rest = False  # what was cut off is no part of the run any more

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, decode)

    def _parts(self) -> list[Path]:
        return parts_of(self.path)


def read_journal(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield all entries of a journal, rotated parts first; says in one warning how many lines were broken."""
    with JournalReader(path) as reader:
        yield from reader
        last = reader.torn()
        if last is not None:
            yield last
        if reader.broken:
            log.warning("%s: skipped %d broken line(s)", reader.path, reader.broken)
