"""Finding a checkpoint to go on from: what is damaged is said, set aside, and passed over."""

from __future__ import annotations

import logging
from pathlib import Path

from expkit.checkpoints.folder import CheckpointFolder
from expkit.checkpoints.storage import checkpoint_error

__all__ = ["find_valid"]

logger = logging.getLogger("expkit")


def find_valid(folder: CheckpointFolder, step: int | None = None) -> Path | None:
    """Return the newest valid checkpoint in `folder`, or that of `step`; None, which is said, if there is none."""
    there = folder.all_files()
    for found, path in there:
        if step in (None, found) and _is_usable(folder, path):
            return path
    steps = dict.fromkeys(found for found, _ in there)
    if step is None and there:
        logger.error("none of the %d checkpoints in %s can be loaded", len(steps), folder.path)
    elif step is not None and step not in steps:
        names = ", ".join(map(str, steps)) or "none"
        logger.warning("there is no checkpoint of step %s in %s; there are: %s", step, folder.path, names)
    return None


def _is_usable(folder: CheckpointFolder, path: Path) -> bool:
    try:
        problem = checkpoint_error(path)
        if problem is None:
            return True
        aside = folder.set_aside(path)
    except FileNotFoundError:  # meanwhile deleted by a training process, or set aside by another rank
        return False
    except OSError as error:
        logger.warning("%s is passed over, as it cannot be read or renamed: %s", path, error)
        return False
    logger.warning(
        "%s is no valid checkpoint: %s. It is set aside as %s: put back an intact copy if there is one",
        path,
        problem,
        aside.name,
    )
    return False
