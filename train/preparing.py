"""From the parts of a run to a runner that stands where the run goes on, on every rank alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from expkit.checkpoints import CheckpointManager
from expkit.checkpoints.storage import peek_checkpoint
from expkit.dist import Control
from expkit.errors import ResumeError
from expkit.experiment import RunDir
from expkit.recorder import Recorder
from expkit.schedule import auto_intervals
from train.best import Best
from train.parts import Parts
from train.responses import Rewind, left_course, lower_as_rewinds, passes
from train.restoring import find_checkpoint, restore
from train.resume import Origin
from train.runner import Runner

__all__ = ["prepare"]


def prepare(
    parts: Parts,
    config: DictConfig,
    files: RunDir,
    manager: CheckpointManager | None,
    recorder: Recorder,
    control: Control,
    origin: Origin | None,
    stored: Mapping[str, Any],
    masked: Mapping[str, Any],
    rewind: Rewind | None = None,
) -> tuple[Runner, dict[str, Any] | None]:
    """Return the runner, and the checkpoint that it was brought to, or None. Called by all ranks.

    Nothing is written but what a damaged checkpoint is renamed to.

    Args:
        parts: what the run is made of.
        config: the configuration.
        files: the run directory, on a disk that all ranks see.
        manager: of its checkpoints, or None.
        recorder: takes what there is to say.
        control: what all ranks must do together.
        origin: where the run goes on from, or None.
        stored: what config.json says of what has led here.
        masked: the configuration as plain values, secrets masked.
        rewind: what has led to `origin`, if it was one.
    """
    dist = control.dist
    train = parts.batches(parts.data("train_data"), training=True, dist=dist)
    train.agree()
    data = parts.data("val_data")
    val = parts.batches(data, training=False, dist=dist) if data is not None else None
    steps = parts.trainer.total_steps(train.steps)
    if manager is not None and config.checkpoint.get("save_interval") == "auto":
        manager.save_interval = auto_intervals(steps)["checkpoint"]
    runner = Runner(
        parts.task,
        parts.model,
        parts.update(steps),
        parts.trainer,
        train,
        val,
        recorder=recorder,
        diagnostics=parts.diagnostics,
        best=Best(manager.monitor, manager.mode, parts.task.higher_is_better) if manager is not None else None,
        dist=dist,
        control=control,
    )
    if origin is None or manager is None:
        return runner, None
    runner.passes = passes(stored, rewind)
    path = dist.broadcast(_chosen(manager, files, origin, stored) if dist.is_main else None)
    if path is None:
        return runner, None
    state = _look_at(path)
    restore(runner, state, origin, masked, parts.detectors, path)
    lower_as_rewinds(runner.update, stored, state, rewind)
    return runner, state


def _chosen(manager: CheckpointManager, files: RunDir, origin: Origin, stored: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint to go on from, verified, or None if there is none yet."""
    path = find_checkpoint(manager, files, origin)
    back = left_course(stored, peek_checkpoint(path)) if path is not None else None
    if back is not None and origin.step is None:
        path = find_checkpoint(manager, files, replace(origin, step=back))
    return None if path is None else path.absolute()


def _look_at(path: Path) -> dict[str, Any]:
    """Return what there is in the checkpoint that rank 0 has chosen, besides the tensors of model and optimizer.

    Raises:
        ResumeError: this rank's machine does not see it.
    """
    try:
        return peek_checkpoint(path)
    except OSError as error:
        raise ResumeError(
            f"{path} cannot be read ({error.strerror or error}): run.outputs must be a folder that all machines of a "
            "job share"
        ) from error
