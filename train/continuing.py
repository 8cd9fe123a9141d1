"""The directory of a run that goes on, brought to the step at which it does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig

from expkit.checkpoints import CheckpointManager
from expkit.checkpoints.storage import step_of
from expkit.experiment import RunDir
from expkit.journal import cut_journal
from train.directory import may_refuse, note_resume
from train.responses import Rewind
from train.restoring import is_exact
from train.resume import Origin, differences

__all__ = ["bring_back", "go_back"]

log = logging.getLogger("expkit")


def bring_back(
    config: DictConfig,
    masked: Mapping[str, Any],
    files: RunDir,
    origin: Origin | None,
    state: Mapping[str, Any] | None,
    manager: CheckpointManager | None,
    lost: int,
    rewind: Rewind | None,
) -> tuple[list[str], int]:
    """Bring a run directory to where its run goes on; that of a run which begins there is left as it is.

    Args:
        config: composed for now.
        masked: the same as plain values, secrets masked.
        files: the run directory.
        origin: where the run goes on from, or None.
        state: the checkpoint, or None without one.
        manager: of the checkpoints.
        lost: how many records lie after it.
        rewind: what has led to `origin`, if it was one.

    Returns:
        (how the configuration differs from the one before, how often the run has left the course that trackers know)
    """
    resumed = None if origin is None or origin.is_fork else origin
    step = int(state["step"]) if state is not None else 0
    before = state if state is not None else origin.stored if origin is not None else None
    changes = differences(before["config"], masked) if before is not None else []
    branch = int(resumed.stored.get("branch", 0)) if resumed is not None else 0
    later = state is not None and _later_checkpoints(files, step)
    if (lost and not is_exact(changes)) or later or rewind is not None:
        branch += 1  # what the trackers hold of these steps will not come again: they get a run of their own
    if resumed is not None:
        # In this order: whatever a kill or a disk leaves undone, the next resume does, and no record is lost.
        with may_refuse(files.root):
            note_resume(config, resumed, masked, step, changes, asdict(rewind) if rewind is not None else None, branch)
            go_back(manager if state is not None else None, files, step)
    return changes, branch


def _later_checkpoints(files: RunDir, step: int) -> bool:
    """Whether there are checkpoints of later steps than `step`."""
    steps = [found for path in files.checkpoints.iterdir() if (found := step_of(path)) is not None]
    return any(found > step for found in steps)


def go_back(manager: CheckpointManager | None, files: RunDir, step: int) -> None:
    """Bring a run directory back to `step`: later checkpoints are set aside, the journals cut."""
    for path in manager.rewind(step) if manager is not None else ():
        log.info("%s is of a later step: set aside as %s", path.name.removesuffix(".rewound"), path.name)
    for file in (files.metrics, files.events):
        cut = cut_journal(file, step) if file.exists() else 0
        if cut:
            log.info("%s: %d line(s) after step %d set aside; they come again", file.name, cut, step)
