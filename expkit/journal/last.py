"""The end of a journal, without reading the rest."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

from expkit.journal.format import decode
from expkit.opening import open_file

__all__ = ["last_entries"]

_TAILS = (1 << 14, 1 << 18)  # bytes


def last_entries(path: Path, count: int = 1, after: float = -math.inf) -> list[dict[str, Any]]:
    """Return the last entries of a journal, oldest first; fewer where its last 256 KiB hold no more.

    Broken lines are passed over, and so is a torn last one. A journal that cannot be read has no entries.

    Args:
        path: of the journal.
        count: how many at most.
        after: only those behind the last one of this step or an earlier one.
    """
    found: list[dict[str, Any]] = []
    try:
        with open_file(path) as file:
            size = file.seek(0, os.SEEK_END)
            for tail in _TAILS:
                file.seek(max(0, size - tail))
                found, are_all = _decoded(file.read(), count, after)
                if are_all or tail >= size:
                    break
    except OSError:
        return []
    return found


def _decoded(data: bytes, count: int, after: float) -> tuple[list[dict[str, Any]], bool]:
    """Return the last entries in a part of a journal, and whether an earlier part has none that is wanted."""
    found: list[dict[str, Any]] = []
    for line in reversed(data.splitlines()):
        with contextlib.suppress(ValueError):  # torn by a kill, or begun before the tail
            entry = decode(line)
            if entry["step"] <= after:
                return found[::-1], True
            found.append(entry)
            if len(found) == count:
                return found[::-1], True
    return found[::-1], False
