"""The pictures of runs: what there is of each kind, and nothing but that."""

from __future__ import annotations

import operator
import os
import re
from dataclasses import dataclass
from pathlib import Path

from expkit.experiment import RunDir

__all__ = ["Picture", "pictures_of", "read_picture"]

_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"}
_OF_STEP = re.compile(r"(?P<kind>.+)_step_(?P<step>\d{1,18})")
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a run.

    Attributes:
        name: its file, in `visualizations`.
        kind: what it shows.
        step: of the whole run if -1.
        size: bytes.
        changed: when, in ns.
    """

    name: str
    kind: str
    step: int
    size: int
    changed: int


def pictures_of(run: RunDir) -> dict[str, list[Picture]]:
    """Return the pictures in a run's `visualizations`, kind by kind, with their steps in order."""
    kinds: dict[str, list[Picture]] = {}
    for entry in _entries(run):
        stem = entry.name.rpartition(".")[0]
        match = _OF_STEP.fullmatch(stem)
        kind, step = (match["kind"], int(match["step"])) if match else (stem, -1)
        stat = entry.stat(follow_symlinks=False)
        kinds.setdefault(kind, []).append(Picture(entry.name, kind, step, stat.st_size, stat.st_mtime_ns))
    return {kind: sorted(kinds[kind], key=operator.attrgetter("step")) for kind in sorted(kinds)}


def read_picture(run: RunDir, name: str) -> tuple[bytes, str] | None:
    """Return a picture of a run and its media type; None unless it is one of those in its `visualizations`."""
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
