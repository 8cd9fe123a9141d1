"""What there is to say of each checkpoint in a folder, for a list."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path
from typing import TypedDict

from expkit.checkpoint_folder import folder_size, is_sharded
from expkit.checkpoints.folder import CheckpointFolder
from expkit.checkpoints.storage import checkpoint_error

__all__ = ["CheckpointInfo", "list_folder", "problem_of"]


class CheckpointInfo(TypedDict):
    """What `list_checkpoints` says of one: `size_mb` in MB of 1024^2 bytes, `modified` as local time."""

    step: int
    path: Path
    size_mb: float
    modified: str
    valid: bool
    problem: str | None
    reason: str
    metrics: dict[str, float]
    is_best: bool


def list_folder(folder: CheckpointFolder) -> list[CheckpointInfo]:
    """Return what is known of each checkpoint in `folder`, oldest step first; each is read whole."""
    listing: list[CheckpointInfo] = []
    for step, path in reversed(folder.files().items()):
        with contextlib.suppress(FileNotFoundError):  # a training process may delete old ones meanwhile
            stat = path.stat()
            size = folder_size(path) if is_sharded(path) else stat.st_size
            problem = problem_of(path)
            label = folder.label(path) if problem is None else None
            listing.append(
                {
                    "step": step,
                    "path": path,
                    "size_mb": size / 1024**2,
                    "modified": f"{datetime.fromtimestamp(stat.st_mtime):%Y-%m-%d %H:%M:%S}",
                    "valid": problem is None,
                    "problem": problem,
                    "reason": label.reason if label is not None else "",
                    "metrics": dict(label.metrics or {}) if label is not None else {},
                    "is_best": label is not None and label.is_best,
                }
            )
    return listing


def problem_of(path: Path) -> str | None:
    """Return what is wrong with the checkpoint at `path`, or that it cannot be read; None if it is valid."""
    try:
        return checkpoint_error(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
