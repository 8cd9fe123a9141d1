"""What there is to say of the checkpoints in a folder, from their names and links alone, or from every byte."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from expkit.checkpoint_folder import folder_size, is_sharded
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json

__all__ = ["describe"]

_NAME = re.compile(r"checkpoint_step_(?P<step>0|[1-9]\d*)(?:\.pt|\.old)?(?:\.(?P<aside>corrupt|rewound)(?:\.\d+)?)?")


def describe(folder: Path, verify: bool = False) -> dict[str, Any]:
    """Return what there is to say of the checkpoints in `folder`: the fields of `expkit checkpoints --json`.

    Args:
        folder: the folder called `checkpoints` of a run.
        verify: read every byte. Otherwise no file is opened, and which one is the best is what the link says.
    """
    entries = list(_entries(folder))
    best = _linked(folder / "checkpoint_best.pt")
    if verify:
        entries, best = _verified(entries, folder)
    there = [entry for entry in entries if entry["aside"] is None]
    newest = max((entry["step"] for entry in there), default=None)
    usable = max((entry["step"] for entry in there if entry["valid"] is not False), default=None)
    origin = _resumed_from(folder.parent)
    for entry in entries:
        step, aside = entry["step"], entry["aside"]
        uses = (("newest", step == newest), ("best", step == best), ("resumed from", step == origin))
        entry["uses"] = [f"set aside: {aside}"] if aside else [use for use, is_so in uses if is_so]
    return {
        "folder": str(folder),
        "verified": verify,
        "checkpoints": entries,
        "total_bytes": sum(entry["bytes"] for entry in entries),
        "resume_step": usable,
    }


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what the folder itself tells of each checkpoint, newest step first."""
    try:
        names = [(path, match) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
    for path, match in sorted(names, key=lambda each: (-int(each[1]["step"]), each[0].name)):
        with contextlib.suppress(FileNotFoundError):  # a training process may delete old ones meanwhile
            stat = path.stat() if path.exists() else path.lstat()  # a link that points nowhere is there all the same
            yield {
                "step": int(match["step"]),
                "path": str(path),
                "bytes": folder_size(path) if is_sharded(path) else stat.st_size,
                "modified": f"{datetime.fromtimestamp(stat.st_mtime):%Y-%m-%d %H:%M:%S}",
                "aside": match["aside"],
                "valid": None,
                "problem": None,
                "reason": None,
                "metrics": None,
            }


def _verified(entries: list[dict[str, Any]], folder: Path) -> tuple[list[dict[str, Any]], int | None]:
    """Return the entries of the files that are still there, each read whole, and the step of the best."""
    from expkit.checkpoints import CheckpointManager, checkpoint_error

    manager = CheckpointManager(folder.absolute().parent)
    known = {info["path"].name: dict(info) for info in manager.list_checkpoints()}
    best, found = None, []
    for entry in entries:
        info = known.get(Path(entry["path"]).name, {}) if entry["aside"] is None else {}
        try:
            problem = None if info.get("valid") else checkpoint_error(Path(entry["path"]))
        except OSError as error:
            if not os.path.lexists(entry["path"]):  # deleted meanwhile
                continue
            problem = f"it cannot be read ({error.strerror or error})"
        found.append(
            {
                **entry,
                "valid": problem is None,
                "problem": problem,
                "reason": info.get("reason"),
                "metrics": info.get("metrics"),
            }
        )
    marked = manager.best_path()
    if marked is not None:
        match = _NAME.fullmatch(marked.name)
        best = int(match["step"]) if match else None
    return found, best


def _linked(link: Path) -> int | None:
    """Return the step of the checkpoint in the same folder that a link points at."""
    try:
        match = _NAME.fullmatch(str(link.readlink()))
    except OSError:
        return None
    return int(match["step"]) if match else None


def _resumed_from(run: Path) -> int | None:
    """Return the step of the checkpoint that the run went on from last; retention never deletes it."""
    try:
        resumes = read_json(RunDir(run).config).get("resumes")
        return int(resumes[-1]["step"]) if resumes else None
    except (UserError, ArithmeticError, TypeError, ValueError, LookupError):  # a copy without it, or a damaged one
        return None
