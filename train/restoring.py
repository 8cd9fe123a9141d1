"""From a checkpoint back to a run that goes on: which one, into the runner, and the run directory back to its step."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from expkit.checkpoints import CheckpointManager
from expkit.checkpoints.loading import load_into
from expkit.checkpoints.state import load_model_state
from expkit.detectors.base import Detector
from expkit.errors import ResumeError
from expkit.experiment import RunDir
from expkit.lowrank import restore_modes
from expkit.place import describe_at
from train.probe import probe_loss
from train.rankstate import restore_own
from train.resume import Origin, differences
from train.runner import Runner
from train.update import Update

__all__ = [
    "check_continuity",
    "find_checkpoint",
    "is_exact",
    "restore",
    "restore_guards",
]

log = logging.getLogger("expkit")

#: Keys that decide what is computed: a resume that changes one of them is no longer exact.
_DECISIVE = (
    *("task.", "optimizer.", "scheduler."),
    *(f"trainer.{key}:" for key in ("batch_size", "grad_accumulation", "clip_grad_norm", "precision", "compile")),
    *(f"trainer.{key}:" for key in ("seed", "drop_last", "device", "deterministic", "threads")),
)


def find_checkpoint(manager: CheckpointManager, files: RunDir, origin: Origin) -> Path | None:
    """Return the checkpoint to go on from, verified, or None for a run that was stopped before its first one.

    Raises:
        ResumeError: the checkpoint that was asked for, or every one, cannot be read.
    """
    if origin.step is None and not any(files.checkpoints.glob("checkpoint_step_*")):
        log.warning("%s was stopped before its first checkpoint: it starts again from step 0", files.root)
        return None
    path = manager.find(origin.step)
    if path is None and origin.step is not None:
        run, what = files.root, f"the checkpoint of step {origin.step}"
        raise ResumeError(f"{what} of {run} cannot be read: resume={run} takes the newest that can be")
    if path is None:
        raise ResumeError(f"{files.root} holds no checkpoint that can be read: start a fresh run")
    return path


def restore(
    runner: Runner,
    state: Mapping[str, Any],
    origin: Origin,
    config: Mapping[str, Any],
    detectors: Mapping[str, Detector],
    path: Path | None = None,
) -> None:
    """Bring `runner` to where the checkpoint `state` of `origin` was.

    Args:
        runner: made for the configuration of now.
        state: the checkpoint.
        origin: the run that it is of.
        config: the configuration of now, plain.
        detectors: name -> detector.
        path: where the tensors of model and optimizer are: each rank reads what it needs. None: in `state`.

    Raises:
        ResumeError: it is not of such a model or optimizer.
    """
    # What the checkpoint was trained with: config.json may speak of a resume that ended before it saved anything.
    update, before = runner.update, state["config"]
    try:
        restore_modes(runner.model, state["model_state_dict"], update.optimizer)
        if path is not None:
            load_into(path, runner.model, update.optimizer)
        else:
            load_model_state(runner.model, state["model_state_dict"])
            update.optimizer.load_state_dict(state["optimizer_state_dict"])
    except ValueError as error:
        raise ResumeError(
            f"the checkpoint of step {state['step']} of {origin.run} does not fit what is configured now: {error}"
        ) from error
    if update.scaler is not None and state["scaler_state_dict"]:
        update.scaler.load_state_dict(state["scaler_state_dict"])
    _restore_schedule(update, state, before, config)
    runner.load_state_dict(state["sampler_state"], state["loss_history"])
    for name, detector in detectors.items():
        if name in state["detector_state"]:
            _restore_detector(name, detector, state["detector_state"][name])
    restore_guards(update, state["guard_state"], before, config)
    if runner.dist.is_main:
        _warn_if_inexact(state, differences(before, config))
    restore_own(runner, state)


def restore_guards(
    update: Update, saved: Sequence[dict[str, Any]], before: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Restore the guards, unless the detectors that they belong to are others now: a limit is of one metric."""
    then, now = ([*(each.get("detectors") or {}).items()] for each in (before, config))
    if then == now:
        for guard, state in zip(update.guards, saved, strict=True):
            guard.load_state_dict(state)


def _restore_detector(name: str, detector: Detector, saved: dict[str, Any]) -> None:
    try:
        detector.load_state_dict(saved)
    except Exception as error:  # noqa: BLE001 - somebody's own, changed since then say: it is not worth a run
        log.warning("detectors.%s begins anew: it does not take its own state (%s)", name, describe_at(error))


def check_continuity(runner: Runner, state: Mapping[str, Any], tolerance: float) -> None:
    """Compute the loss on the batch that travelled in the checkpoint `state` again, and say how it compares.

    Args:
        runner: restored from it.
        state: the checkpoint.
        tolerance: by how much the loss may differ.
    """
    probe = state.get("probe")
    if probe is None:
        return
    then = float(probe["loss"])
    try:
        now = float(probe_loss(runner.task, runner.model, runner.update, probe["batch"]))
    except Exception as error:  # noqa: BLE001 - whatever the task does with a batch of before
        log.warning("the loss cannot be compared with that of the checkpoint: %s: %s", type(error).__name__, error)
        return
    if abs(now - then) <= tolerance or (math.isnan(now) and math.isnan(then)):
        log.info(
            "the loss goes on where it was: %.5g on the checkpoint's own batch, and %.5g when it was saved", now, then
        )
        return
    log.warning(
        "the loss does not go on where it was: %.5g on the checkpoint's own batch, but %.5g when it was saved "
        "(checkpoint.loss_tolerance=%g): the code, a library or the task's settings have changed since, or the model "
        "has state that is not in its state_dict",
        now,
        then,
        tolerance,
    )


def is_exact(changes: Sequence[str]) -> bool:
    """Whether a resume with these differences computes what the run would have computed."""
    return not any(change.startswith(_DECISIVE) for change in changes)


def _restore_schedule(
    update: Update, state: Mapping[str, Any], before: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Restore the scheduler; optimizer values that the user has changed since win over the restored ones."""
    scheduler, groups = update.scheduler, update.optimizer.param_groups
    then, now = before.get("optimizer", {}), config["optimizer"]
    changed = {key: value for key, value in now.items() if then.get(key) != value and not key.startswith("_")}
    for key, value in changed.items():
        if key != "lr" and not any(key in group for group in groups):
            log.warning("optimizer.%s=%s has no effect on a resume: it is set when the optimizer is made", key, value)
        for group in groups:
            if key in group and key != "lr":
                group[key] = value
    same_schedule = before.get("scheduler") == config["scheduler"]
    if same_schedule and scheduler is not None and state["scheduler_state_dict"]:
        scheduler.load_state_dict(state["scheduler_state_dict"])
    if not same_schedule:
        for group in groups:
            group["lr"] = group["initial_lr"] = now["lr"]
        _replay(scheduler, state["step"])
    elif "lr" in changed:
        # The one typed counts, whatever `lower_lr` has left of the one before; groups may have rates of their own.
        left = {group.get("initial_lr", group["lr"]) for group in groups}
        update.scale_learning_rate(now["lr"] / (left.pop() if len(left) == 1 else then["lr"]))


def _replay(scheduler: LRScheduler | None, steps: int) -> None:
    """Bring a schedule to where it is after `steps` updates; most have no closed form."""
    if scheduler is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of schedules stepped without their optimizer
        for _ in range(steps):
            scheduler.step()


def _warn_if_inexact(state: Mapping[str, Any], changes: Sequence[str]) -> None:
    decisive = [change for change in changes if change.startswith(_DECISIVE)]
    if decisive:
        log.warning("from here on it is not the run that it would have been: %s", "; ".join(decisive))
    for what, then, now in (
        ("threads", state.get("threads"), torch.get_num_threads()),
        ("torch", state.get("torch_version"), str(torch.__version__)),
    ):
        if then is not None and then != now:
            log.warning("resumed with %s %s instead of %s: results may differ in the last digits", what, now, then)
