"""The end of a journal, without reading the rest."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from expkit.journal.format import decode

__all__ = ["last_entries"]

_TAILS = (1 << 14, 1 << 18)  # bytes


def last_entries(path: Path, count: int = 1) -> list[dict[str, Any]]:
    """Return the last entries of a journal, oldest first; fewer where its last 256 KiB hold no more.

    Broken lines are passed over, and so is a torn last one. A journal that cannot be read has no entries.
    """
    found: list[dict[str, Any]] = []
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            for tail in _TAILS:
                file.seek(max(0, size - tail))
                found = _decoded(file.read(), count)
                if len(found) >= count or tail >= size:
                    break
    except OSError:
        return []
    return found


def _decoded(data: bytes, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in reversed(data.splitlines()):
        with contextlib.suppress(ValueError):  # torn by a kill, or begun before the tail
            found.append(decode(line))
            if len(found) == count:
                break
    return found[::-1]
