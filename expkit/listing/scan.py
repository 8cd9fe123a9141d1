"""The runs of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import is_there
from expkit.listing.entry import RunEntry

__all__ = ["scan"]

_FILES = frozenset({"config.json", "status.json", "results.json"})
#: What is made before any of these.
_FOLDERS = frozenset({"checkpoints", "logs", "visualizations"})


def scan(outputs: Path) -> list[RunEntry]:
    """Return the runs in a folder, in no order.

    A run is a directory with a config.json, status.json, results.json or journal, or with the folders that are made
    before these. A directory without these may be that of a sweep: runs right below it belong to the
    list as sweep/0. What cannot be opened is listed, and says so.

    Raises:
        UserError: there is no such folder, or it is a run itself.
    """
    found = []
    if is_there(RunDir(outputs).config) or is_there(RunDir(outputs).status):
        raise UserError(f"{outputs} is a run itself: expkit show {outputs} says what it was")
    try:
        folders = list(_folders(outputs))
    except NotADirectoryError:
        raise UserError(f"{outputs} is a file: name the folder that holds your runs") from None
    except FileNotFoundError:
        raise UserError(f"{outputs} is not there: name the folder that holds your runs") from None
    except OSError as error:
        raise UserError(f"{outputs} cannot be read: {error.strerror}") from None
    for entry in folders:
        found += list(_runs(entry.path, entry.name))
    return found


def _runs(root: str, name: str, deeper: bool = True) -> Iterator[RunEntry]:
    """Yield the run that a directory is, or those right below it."""
    try:
        names = set(os.listdir(root))  # noqa: PTH208
    except OSError as error:
        entry = RunEntry(root, name, frozenset())
        entry.problem = f"it cannot be read: {error.strerror}"
        yield entry
        return
    files = _FILES & names
    if files or _FOLDERS & names:
        yield RunEntry(root, name, frozenset(files))
    elif deeper:
        for each in sorted(names - {".hydra"}):
            if os.path.isdir(f"{root}/{each}"):  # noqa: PTH112 - a Path of each takes longer than its files
                yield from _runs(f"{root}/{each}", f"{name}/{each}", deeper=False)


def _folders(outputs: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(outputs) as content:
        for each in content:
            if not each.name.startswith(".") and each.is_dir():
                yield each
