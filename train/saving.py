"""A run's whole state as one checkpoint, and back: fresh start and resume are the same path from here on."""

from __future__ import annotations

import difflib
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from expkit.checkpoints import CheckpointManager, Moment
from expkit.checkpoints.state import load_model_state
from expkit.detectors.base import Detector
from expkit.errors import ResumeError
from expkit.journal import Journal
from expkit.rng import rng_state, set_rng_state
from train.probe import make_probe, probe_loss
from train.resume import Origin, differences
from train.runner import Runner
from train.update import Update

__all__ = ["Saver", "check_continuity", "is_exact", "restore"]

log = logging.getLogger("expkit")

#: Keys that decide what is computed: a resume that changes one of them is no longer exact.
_DECISIVE = (
    *("task.", "optimizer.", "scheduler."),
    *(f"trainer.{key}:" for key in ("batch_size", "grad_accumulation", "clip_grad_norm", "precision", "compile")),
    *(f"trainer.{key}:" for key in ("seed", "drop_last", "device", "deterministic", "threads")),
)


class Saver:
    """Saves a runner.

    Args:
        checkpoints: where checkpoints go.
        config: the configuration, plain and masked.
        journal: made durable before each checkpoint commits, so that no checkpoint is ahead of it.
        detectors: name -> detector.
    """

    def __init__(
        self,
        checkpoints: CheckpointManager,
        config: Mapping[str, Any],
        journal: Journal,
        detectors: Mapping[str, Detector],
    ) -> None:
        self.checkpoints = checkpoints
        self._config = config
        self._journal = journal
        self._detectors = detectors
        self._saved_step = -1
        self._monitored = False
        checkpoints.before_commit(self._make_durable)

    def __call__(self, runner: Runner, moment: Moment) -> None:
        """Save the moment at which `runner` is, if that is due."""
        if moment.metrics and not self._monitored:
            self._look_for_monitored(runner, moment)
        reason = self.checkpoints.due(moment)
        step = moment.progress.step
        if reason is None or (step == self._saved_step and not moment.is_best):
            return
        with runner.watch.paused():
            self._save(runner, moment, reason)
            if moment.ended or moment.stopping:
                self._make_sure(runner, moment, reason)

    def _save(self, runner: Runner, moment: Moment, reason: str) -> None:
        """Save all state, at this one step boundary."""
        update, step = runner.update, moment.progress.step
        saved = self.checkpoints.save_checkpoint(
            step,
            runner.model,
            update.optimizer,
            runner.loss_history,
            self._config,
            is_best=moment.is_best,
            verify=True if moment.ended or moment.stopping else None,
            reason=reason,
            metrics=_by_weight(moment.metrics, self.checkpoints.monitor),
            probe=make_probe(runner.task, runner.model, update, runner.last_batch),
            scheduler_state_dict=update.scheduler.state_dict() if update.scheduler is not None else None,
            scaler_state_dict=update.scaler.state_dict() if update.scaler is not None else None,
            rng_state=rng_state(),
            sampler_state=runner.state_dict(),
            detector_state={name: detector.state_dict() for name, detector in self._detectors.items()},
            guard_state=[guard.state_dict() for guard in update.guards],
            journal_state={"step": step},
            threads=torch.get_num_threads(),
            torch_version=str(torch.__version__),
        )
        self._saved_step = step if saved is not None else -1

    def _make_sure(self, runner: Runner, moment: Moment, reason: str) -> None:
        """Wait for the last checkpoint of a run; if it failed, try once more: there will be no later one."""
        if self.checkpoints.wait() != moment.progress.step:
            self._save(runner, moment, reason)
            self.checkpoints.wait()

    def _make_durable(self) -> None:
        try:
            self._journal.sync()
        except OSError as error:
            log.warning(
                "the journal cannot be made durable (%s): the checkpoint is saved all the same",
                error.strerror,
            )

    def _look_for_monitored(self, runner: Runner, moment: Moment) -> None:
        """Say so if the monitored metric does not come with the first evaluation, or at the end of an epoch."""
        monitor, validated = self.checkpoints.monitor, any(name.startswith("val_") for name in moment.metrics)
        late = validated if monitor.startswith("val_") and runner.val is not None else moment.progress.epoch_ended
        self._monitored = late or monitor in moment.metrics
        if monitor in moment.metrics or not late or (monitor == "val_loss" and runner.val is None):
            return
        close = difflib.get_close_matches(monitor, moment.metrics, n=1)
        there = ", ".join(moment.metrics) or "none"
        hint = f"did you mean {close[0]}?" if close else f"there are {there}"
        log.warning("checkpoint.monitor=%s: there is no such metric, so no checkpoint is the best; %s", monitor, hint)

    def resumed(self, step: int) -> None:
        """Keep the checkpoint of `step`, from which the run goes on, and do not save it again."""
        self.checkpoints.protect(step)
        self._saved_step = step


def restore(
    runner: Runner,
    state: Mapping[str, Any],
    origin: Origin,
    config: Mapping[str, Any],
    detectors: Mapping[str, Detector],
) -> None:
    """Bring `runner` to where the checkpoint `state` of `origin` was.

    Args:
        runner: made for the configuration of now.
        state: the checkpoint.
        origin: the run that it is of.
        config: the configuration of now, plain.
        detectors: name -> detector.

    Raises:
        ResumeError: it is not of such a model or optimizer.
    """
    update, before = runner.update, origin.stored["config"]
    try:
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
            detector.load_state_dict(state["detector_state"][name])
    for guard, saved in zip(update.guards, state["guard_state"], strict=False):
        guard.load_state_dict(saved)
    _warn_if_inexact(state, differences(before, config))
    set_rng_state(state["rng_state"])


def _by_weight(metrics: Mapping[str, float], monitor: str) -> dict[str, float]:
    """Return `metrics`, the monitored one first, then those of the evaluation: lists show the first ones."""
    return dict(sorted(metrics.items(), key=lambda item: (item[0] != monitor, not item[0].startswith("val_"))))


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
        factor = now["lr"] / then["lr"]
        for group in groups:
            group["lr"] *= factor
            group["initial_lr"] = group.get("initial_lr", then["lr"]) * factor
        if scheduler is not None:
            scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]


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
