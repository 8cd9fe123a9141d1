"""A run's whole state as one checkpoint, at the moments that the policies ask for."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from expkit.checkpoints import CheckpointManager, Moment
from expkit.checkpoints.saving import is_bundled
from expkit.detectors.base import Detector
from expkit.dist import Control
from expkit.errors import ConfigError, UserError
from expkit.experiment import RunDir
from expkit.journal import Journal, is_volatile
from expkit.rng import rng_state
from expkit.timelimit import TimeLimit
from train.parts import Parts
from train.probe import make_probe
from train.rankstate import gathered
from train.responses import Responder
from train.runner import Runner
from train.snapshotting import Snapshotter

__all__ = ["Saver", "make_limit", "make_manager"]

log = logging.getLogger("expkit")


def make_manager(parts: Parts, section: DictConfig, files: RunDir) -> CheckpointManager | None:
    """Return the checkpoint manager of a run, or None for `checkpoint=none`. Its `auto` interval is not known yet.

    Args:
        parts: what the run is made of.
        section: the checkpoint section of the configuration.
        files: the run directory.

    Raises:
        UserError: a setting cannot work.
    """
    if parts.checkpoints is None:
        return None
    for key in ("save", "keep"):
        if key in section and section[key] is None:
            raise ConfigError(f"checkpoint.{key}=null: this is a whole section; set checkpoint.{key}.KEY=... in it")
    options = {"save_interval": 1000} if section.get("save_interval") == "auto" else {}
    try:
        manager: CheckpointManager = parts.checkpoints(experiment_dir=files.root, **options)
    except (TypeError, ValueError) as error:
        where = "checkpoint." if re.match(r"\w+=", str(error)) else "checkpoint: "
        raise UserError(f"{where}{error}") from error
    monitored = manager.monitor.removeprefix("val_").removeprefix("train_")
    if section.get("mode") == "auto" and monitored in parts.task.higher_is_better:
        manager.mode = "max"
    return manager


def make_limit(manager: CheckpointManager | None, control: Control) -> TimeLimit | None:
    """Return what asks for a checkpoint before the job ends, or None where that is not for this process to do."""
    if manager is None or manager.before_timeout is None or not control.dist.is_main:
        return None
    return TimeLimit(manager.before_timeout, lambda: control.request(Control.SAVE))


class Saver:
    """Saves a runner; every rank has one, and calls it at every step.

    Rank 0 writes, with what the others have of their own. Of a model that is sharded each rank writes its part.

    Args:
        checkpoints: where checkpoints go.
        config: the configuration, plain and masked.
        journal: made durable before each checkpoint commits, so that no checkpoint is ahead of it; None on other ranks.
        detectors: name -> detector.
        snapshotter: when the last snapshots were taken; a checkpoint that says so commits after them.
    """

    def __init__(
        self,
        checkpoints: CheckpointManager,
        config: Mapping[str, Any],
        journal: Journal | None = None,
        detectors: Mapping[str, Detector] | None = None,
        snapshotter: Snapshotter | None = None,
    ) -> None:
        self.checkpoints = checkpoints
        self._config = config
        self._journal = journal
        self._detectors, self._snapshotter = detectors or {}, snapshotter
        self._saved_step = -1
        self._monitored, self._durable = False, True
        self._alike = is_bundled(checkpoints.save)
        checkpoints.before_commit(self._make_durable)

    def __call__(self, runner: Runner, moment: Moment) -> None:
        """Save the moment at which `runner` is, if that is due."""
        if moment.metrics and not self._monitored and runner.dist.is_main:
            self._look_for_monitored(runner, moment)
        reason = self.checkpoints.due(moment)
        if not self._alike:
            reason = runner.dist.broadcast(reason)
        step = moment.progress.step
        if reason is None or (step == self._saved_step and not moment.is_best):
            return
        runner.dist.at(step, "saving")
        with runner.watch.paused():
            self._save(runner, moment, reason)
            if moment.ended or moment.stopping:
                self._make_sure(runner, moment, reason)

    def _save(self, runner: Runner, moment: Moment, reason: str) -> None:
        """Save all state, at this one step boundary."""
        update, step, sharded = runner.update, moment.progress.step, runner.strategy.is_sharded
        ranks = gathered(runner) if runner.dist.world_size > 1 else None
        if not runner.dist.is_main and not sharded:
            self._saved_step = step
            return
        # A forward pass of a sharded model is every rank's, on the same batch.
        batch = runner.dist.broadcast(runner.last_batch) if sharded else runner.last_batch
        saved = self.checkpoints.save_checkpoint(
            step,
            runner.model,
            update.optimizer,
            list(runner.loss_history),
            self._config,
            is_best=moment.is_best,
            verify=True if moment.ended or moment.stopping else None,
            reason=reason,
            metrics=_by_weight(moment.metrics, self.checkpoints.monitor),
            probe=make_probe(runner.task, runner.model, update, batch),
            scheduler_state_dict=update.scheduler.state_dict() if update.scheduler is not None else None,
            scaler_state_dict=update.scaler.state_dict() if update.scaler is not None else None,
            rng_state=rng_state(),
            sampler_state=runner.state_dict(),
            detector_state={name: detector.state_dict() for name, detector in self._detectors.items()},
            response_state=runner.respond.state_dict() if isinstance(runner.respond, Responder) else None,
            snapshot_state=self._snapshotter.state_dict() if self._snapshotter is not None else None,
            guard_state=[guard.state_dict() for guard in update.guards],
            journal_state={"step": step},
            threads=torch.get_num_threads(),
            torch_version=str(torch.__version__),
            **({"ranks": ranks} if ranks else {}),
        )
        self._saved_step = step if saved is not None else -1

    def _make_sure(self, runner: Runner, moment: Moment, reason: str) -> None:
        """Wait for the last checkpoint of a run; if it failed, try once more: there will be no later one."""
        if runner.dist.broadcast(self.checkpoints.wait() != moment.progress.step):
            self._save(runner, moment, reason)
            self.checkpoints.wait()

    def _make_durable(self) -> None:
        if self._snapshotter is not None:
            self._snapshotter.wait()
        if self._journal is None:
            return
        try:
            self._journal.sync()
            self._durable = True
        except OSError as error:
            if self._durable:
                what = "checkpoints are saved all the same"
                log.warning("the journal cannot be made durable (%s): %s", error.strerror or error, what)
            self._durable = False

    def _look_for_monitored(self, runner: Runner, moment: Moment) -> None:
        """Say so if the monitored metric does not come with the first evaluation, or at the end of an epoch."""
        monitor, validated = self.checkpoints.monitor, any(name.startswith("val_") for name in moment.metrics)
        late = validated if monitor.startswith("val_") and runner.val is not None else moment.progress.epoch_ended
        self._monitored = late or monitor in moment.metrics
        if monitor in moment.metrics or not late or (monitor == "val_loss" and runner.val is None):
            return
        close = difflib.get_close_matches(monitor, moment.metrics, n=1)
        there = ", ".join(name for name in moment.metrics if not is_volatile(name)) or "none"
        hint = f"did you mean {close[0]}?" if close else f"there are {there}"
        log.warning("checkpoint.monitor=%s: there is no such metric, so no checkpoint is the best; %s", monitor, hint)

    def resumed(self, step: int) -> None:
        """Keep the checkpoint of `step`, from which the run goes on, and do not save it again."""
        self.checkpoints.protect(step)
        self._saved_step = step


def _by_weight(metrics: Mapping[str, float], monitor: str) -> dict[str, float]:
    """Return `metrics`, the monitored one first, then those of the evaluation: lists show the first ones."""
    return dict(sorted(metrics.items(), key=lambda item: (item[0] != monitor, not item[0].startswith("val_"))))
