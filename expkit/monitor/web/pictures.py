"""The pictures of runs: what there is of each kind, and nothing but that."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from expkit.experiment import RunDir

__all__ = ["list_pictures", "read_picture"]

_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"}
_OF_STEP = re.compile(r"(?P<kind>.+)_step_(?P<step>\d{1,18})")
_LARGEST = 64 << 20


def list_pictures(runs: Sequence[RunDir]) -> dict[str, Any]:
    """Return the pictures in the runs' `visualizations`, kind by kind, with their steps in order."""
    found = []
    for number, run in enumerate(runs):
        kinds: dict[str, list[dict[str, Any]]] = {}
        for entry in _entries(run):
            stem = entry.name.rpartition(".")[0]
            match = _OF_STEP.fullmatch(stem)
            changed = entry.stat(follow_symlinks=False).st_mtime_ns
            picture = {
                "step": int(match["step"]) if match else -1,  # of the whole run
                "url": f"pictures/{number}/{quote(entry.name, safe='')}?{changed:x}",
            }
            kinds.setdefault(match["kind"] if match else stem, []).append(picture)
        for pictures in kinds.values():
            pictures.sort(key=operator.itemgetter("step"))
        ordered = [{"kind": kind, "pictures": kinds[kind]} for kind in sorted(kinds)]
        found.append({"run": run.id, "kinds": ordered})
    return {"runs": found}


def read_picture(runs: Sequence[RunDir], number: str, name: str) -> tuple[bytes, str] | None:
    """Return a picture and its media type; None unless it is one that is listed."""
    if number not in map(str, range(len(runs))):
        return None
    run = runs[int(number)]
    if not any(entry.name == name for entry in _entries(run)):
        return None
    try:
        descriptor = os.open(run.visualizations / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            return file.read(_LARGEST), _KINDS[Path(name).suffix.lower()]
    except OSError:
        return None


def _entries(run: RunDir) -> list[os.DirEntry[str]]:
    """Return the files that are pictures. Links, which may lead anywhere, are none."""
    try:
        if run.visualizations.is_symlink():
            return []
        with os.scandir(run.visualizations) as entries:
            return [
                entry
                for entry in entries
                if Path(entry.name).suffix.lower() in _KINDS
                and not entry.name.startswith(".")
                and entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []
