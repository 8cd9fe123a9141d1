"""A run's whole state as one checkpoint, and back: fresh start and resume are the same path from here on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from expkit.checkpoints import CheckpointManager
from expkit.checkpoints.state import load_model_state
from expkit.detectors.base import Detector
from expkit.errors import ResumeError
from expkit.guards.base import Guard
from expkit.journal import Journal
from expkit.rng import rng_state, set_rng_state
from train.resume import Origin, differences
from train.runner import Runner

__all__ = ["Saver"]

log = logging.getLogger("expkit")

#: Keys that decide what is computed: a resume that changes one of them is no longer exact.
_DECISIVE = (
    *("task.", "optimizer.", "scheduler."),
    *(f"trainer.{key}:" for key in ("batch_size", "grad_accumulation", "clip_grad_norm", "precision", "compile")),
    *(f"trainer.{key}:" for key in ("seed", "drop_last", "device", "deterministic")),
)


class Saver:
    """Saves and restores a runner.

    Args:
        checkpoints: where checkpoints go.
        config: the configuration, plain and masked.
        journal: fsynced before each checkpoint commits, so that no checkpoint is ahead of it.
        detectors: name -> detector.
        guards: in their order.
    """

    def __init__(
        self,
        checkpoints: CheckpointManager,
        config: Mapping[str, Any],
        journal: Journal,
        detectors: Mapping[str, Detector],
        guards: list[Guard],
    ) -> None:
        self.checkpoints = checkpoints
        self._config = config
        self._journal = journal
        self._detectors = detectors
        self._guards = guards
        self._saved_step = -1

    def save(self, runner: Runner, is_best: bool) -> None:
        """Save the moment at which `runner` is, all of it at this one step boundary."""
        update, step = runner.update, runner.progress.step
        if step == self._saved_step and not is_best:
            return
        try:
            self._journal.sync()
        except OSError as error:
            log.warning(
                "the journal cannot be made durable (%s): the checkpoint is saved all the same",
                error.strerror,
            )
        saved = self.checkpoints.save_checkpoint(
            step,
            runner.model,
            update.optimizer,
            runner.loss_history,
            self._config,
            is_best=is_best,
            scheduler_state_dict=update.scheduler.state_dict() if update.scheduler is not None else None,
            scaler_state_dict=update.scaler.state_dict() if update.scaler is not None else None,
            rng_state=rng_state(),
            sampler_state=runner.state_dict(),
            detector_state={name: detector.state_dict() for name, detector in self._detectors.items()},
            guard_state=[guard.state_dict() for guard in self._guards],
            journal_state={"step": step},
            threads=torch.get_num_threads(),
            torch_version=str(torch.__version__),
        )
        if saved is not None:
            self._saved_step = step

    def restore(self, runner: Runner, state: Mapping[str, Any], origin: Origin) -> None:
        """Bring `runner` to where the checkpoint `state` of `origin` was.

        Raises:
            ResumeError: it is not of such a model or optimizer.
        """
        update = runner.update
        try:
            load_model_state(runner.model, state["model_state_dict"])
            update.optimizer.load_state_dict(state["optimizer_state_dict"])
        except ValueError as error:
            raise ResumeError(
                f"the checkpoint of step {state['step']} of {origin.run} does not fit what is configured now: {error}"
            ) from error
        if update.scaler is not None and state["scaler_state_dict"]:
            update.scaler.load_state_dict(state["scaler_state_dict"])
        self._restore_schedule(runner, state, origin)
        runner.load_state_dict(state["sampler_state"], state["loss_history"])
        for name, detector in self._detectors.items():
            if name in state["detector_state"]:
                detector.load_state_dict(state["detector_state"][name])
        for guard, saved in zip(self._guards, state["guard_state"], strict=False):
            guard.load_state_dict(saved)
        self.checkpoints.protect(state["step"])
        self._saved_step = state["step"]
        self._warn_if_inexact(state, origin)
        set_rng_state(state["rng_state"])

    def _restore_schedule(self, runner: Runner, state: Mapping[str, Any], origin: Origin) -> None:
        """Restore the scheduler; optimizer values that the user has changed since win over the restored ones."""
        scheduler, optimizer = runner.update.scheduler, runner.update.optimizer
        before = origin.stored["config"]
        changed = _changed(before.get("optimizer", {}), self._config["optimizer"])
        same_schedule = before.get("scheduler") == self._config["scheduler"]
        for group in optimizer.param_groups:
            group.update({key: value for key, value in changed.items() if key in group})
            if "lr" in changed or not same_schedule:
                group["initial_lr"] = group["lr"] = self._config["optimizer"]["lr"]
        if scheduler is None:
            return
        if same_schedule and state["scheduler_state_dict"]:
            scheduler.load_state_dict(state["scheduler_state_dict"])
        if "lr" in changed or not same_schedule:
            scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
            scheduler.last_epoch = state["step"] - 1
            scheduler._step_count = state["step"] + 1
            scheduler.step()

    def _warn_if_inexact(self, state: Mapping[str, Any], origin: Origin) -> None:
        changed = [
            change for change in differences(origin.stored["config"], self._config) if change.startswith(_DECISIVE)
        ]
        if changed:
            log.warning("from here on it is not the run that it would have been: %s", "; ".join(changed))
        for what, then, now in (
            ("threads", state.get("threads"), torch.get_num_threads()),
            ("torch", state.get("torch_version"), str(torch.__version__)),
        ):
            if then is not None and then != now:
                log.warning("resumed with %s %s instead of %s: results may differ in the last digits", what, now, then)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in after.items() if before.get(key) != value and not key.startswith("_")}
