"""What is said of a run besides its configuration: of data and processes in config.json, of itself to trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from expkit.experiment import RunDir
from expkit.trackers import RunInfo
from train.parts import Parts
from train.runner import Runner
from train.staging import unstaged

__all__ = ["dataset_info", "process_info", "run_info"]


def dataset_info(parts: Parts, train: Any, val: Any) -> Mapping[str, Any]:
    """Return what config.json says of the data: what the task says, and what can be seen."""

    def seen(batches: Any) -> dict[str, Any]:
        return {"class": type(batches.data).__name__, "samples": batches.size, "batches": batches.steps}

    shown = {"train": seen(train), "val": seen(val) if val is not None else None}
    return {**shown, **unstaged(parts.task.describe_data(), parts.copies)}


def process_info(runner: Runner) -> Mapping[str, Any]:
    """Return what config.json says of the processes that a run is spread over; nothing of a single one."""
    dist = runner.dist
    if dist.world_size == 1:
        return {}
    return {"count": dist.world_size, "strategy": runner.strategy.name, "hosts": list(dist.hosts)}


def run_info(config: DictConfig, files: RunDir, masked: Mapping[str, Any], branch: int, resumed_step: int) -> RunInfo:
    """Return what trackers are told of a run.

    Args:
        config: of the run.
        files: its directory.
        masked: the configuration as plain values, secrets masked.
        branch: how often the run has left the course that trackers know: each time it is another run for them.
        resumed_step: where it goes on.
    """
    run = config.run
    return RunInfo(
        id=files.id if branch == 0 else f"{files.id}-r{branch}",
        dir=files.root.absolute(),
        project=run.project,
        name=run.name,
        group=run.group if branch == 0 else run.group or files.id,
        tags=tuple(map(str, run.tags)),
        notes=run.notes,
        config=masked,
        resumed_step=resumed_step,
    )
