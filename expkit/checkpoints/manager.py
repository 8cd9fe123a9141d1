"""CheckpointManager: when to save, how many to keep, which one to resume from."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from expkit.checkpoints.checks import check_metrics, check_parts, check_policy, checked_mode, whole_number
from expkit.checkpoints.finding import find_valid
from expkit.checkpoints.folder import CheckpointFolder
from expkit.checkpoints.keeping import KeepPolicy, keep_also
from expkit.checkpoints.listing import CheckpointInfo, list_folder, problem_of
from expkit.checkpoints.loading import load_into
from expkit.checkpoints.saving import AnyOf, EverySteps, Moment, SavePolicy, save_when
from expkit.checkpoints.shards import has_shards
from expkit.checkpoints.state import collect_state
from expkit.checkpoints.storage import read_checkpoint, step_of
from expkit.checkpoints.writer import CheckpointWriter
from expkit.dist import Dist
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.schedule import Progress
from expkit.timelimit import TimeLimit, duration

__all__ = ["CheckpointInfo", "CheckpointManager"]

logger = logging.getLogger("expkit")


class CheckpointManager:
    """Saves checkpoints under `experiment_dir/checkpoints` and finds the newest good one again.

    Args:
        experiment_dir: the run directory; its `checkpoints` folder is made at the first save.
        save_interval: steps between checkpoints; None: only when `save` says so.
        keep_last_n: how many of the newest valid checkpoints to keep, besides the best and the one resumed from.
        save: more moments at which to save, see `save_when`.
        keep: what to keep besides the newest, see `keep_also`.
        monitor: the metric that makes a checkpoint the best.
        mode: whether a low or a high value of it is good; "auto": high for an accuracy, low for all else.
        verify_every: read every so many-th checkpoint back before it gets its name. The newest one that was read back
            is never deleted. What is loaded is verified in any case.
        async_save: write in a thread: training waits for a copy in memory only. "auto": where there is memory for it.
        before_timeout: save once more so long before a SLURM job ends: seconds, or "2min". See `TimeLimit`.
        loss_tolerance: by how much the loss on a checkpoint's own batch may differ when a runner resumes from it.

    Raises:
        UserError: (a ValueError) a number is no whole number of at least 1, or a mode is none of these.
    """

    def __init__(
        self,
        experiment_dir: Path | str,
        save_interval: int | None = 1000,
        keep_last_n: int = 3,
        *,
        save: SavePolicy | None = None,
        keep: KeepPolicy | None = None,
        monitor: str = "val_loss",
        mode: Literal["min", "max", "auto"] = "auto",
        verify_every: int = 1,
        async_save: bool | Literal["auto"] = False,
        before_timeout: float | str | None = None,
        loss_tolerance: float = 0.1,
    ) -> None:
        self.save = save if save is not None else save_when()
        self.save_interval = save_interval
        self.keep_last_n = whole_number("keep_last_n", keep_last_n, at_least=1)
        self.keep = keep if keep is not None else keep_also()
        check_policy("save", self.save, "reason", "save_when")
        check_policy("keep", self.keep, "keep", "keep_also")
        if async_save not in (True, False, "auto"):
            raise UserError(f"async_save={async_save!r}: choose True, False or 'auto'")
        if not loss_tolerance > 0:
            raise UserError(f"loss_tolerance={loss_tolerance}: it must be more than 0")
        self.monitor, self.loss_tolerance = str(monitor), loss_tolerance
        self.before_timeout = None if before_timeout is None else duration(before_timeout)
        self._limit: TimeLimit | None = None
        self.mode = checked_mode(mode, self.monitor)
        self._folder = CheckpointFolder(RunDir(experiment_dir).checkpoints)
        self._writer = CheckpointWriter(
            self._folder, whole_number("verify_every", verify_every, at_least=1), async_save, self._tidy
        )
        self._protected: int | None = None
        self._dist: Dist | None = None

    @property
    def save_interval(self) -> int | None:
        """Steps between checkpoints, or None."""
        return None if self._every is None else self._every.steps

    @save_interval.setter
    def save_interval(self, steps: int | None) -> None:
        self._every = None if steps is None else EverySteps(whole_number("save_interval", steps, at_least=1))
        self._due = AnyOf((self.save,) if self._every is None else (self._every, self.save))

    def should_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` updates, by `save_interval` or `before_timeout`; never at 0."""
        if self.before_timeout is not None and self._limit is None:
            self._limit = TimeLimit(self.before_timeout)
        by_interval = self._every is not None and self._every.reason(Moment(Progress(step=step))) is not None
        return by_interval or (self._limit is not None and self._limit.due())

    def due(self, moment: Moment) -> str | None:
        """Return why a checkpoint of `moment` is due, by `save_interval` and by `save`, or None."""
        return self._due.reason(moment) or ("asked for" if moment.asked else None)

    def save_checkpoint(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_history: Any,
        config: Any,
        is_best: bool = False,
        verify: bool | None = None,
        **extra: Any,
    ) -> Path | None:
        """Save a checkpoint durably, point the links at it, and delete what need not be kept.

        With `async_save` it returns when everything has been copied. One save is in flight at a time: the next one
        waits for it, and so do `wait`, everything that loads, and the end of the process.

        Args:
            step: updates done.
            model: its `state_dict` is taken, out of DataParallel, DDP and torch.compile.
            optimizer: its `state_dict` is taken.
            loss_history: the losses so far.
            config: the configuration; stored as plain JSON types, secrets masked.
            is_best: make it the best one, which is kept until a later one is the best.
            verify: read this one back before it gets its name; None leaves that to `verify_every`.
            extra: more state, each under its own key: `scheduler_state_dict`, `scaler_state_dict`,
                `rng_state`, `sampler_state`, `detector_state`, `journal_state`, ... Two are looked at: `metrics`,
                name -> number, by which `keep` compares checkpoints, and `reason`, a word on why it was saved.

        Returns:
            The path, or None if the disk is full or broken: that is logged, and training can go on. With `async_save`
            the path where it will be; `wait` says whether it is there.

        Raises:
            StateError: (a UserError and a TypeError) a value could not be loaded again; nothing was written.
            UserError: `step` is no step, or a name in `extra` is one of the checkpoint's own.
        """
        check_parts(model, optimizer)
        ranks = self._ranks(model)
        if ranks is not None:
            self.wait()  # the thread that writes asks the other ranks by the same group

        def collect() -> tuple[dict[str, Any], dict[str, Any]]:
            number, more = whole_number("step", step, at_least=0), {"time": time.time()} | extra
            check_metrics(extra.get("metrics"))
            return collect_state(number, model, optimizer, loss_history, config, more, sharded=ranks is not None)

        state, shards = collect() if ranks is None else ranks.together(collect)
        return self._writer.write(state["step"], state, is_best, verify, shards, ranks)

    def wait(self) -> int | None:
        """Wait for the save in flight, if any. Return the step of the last one that this manager has committed."""
        self._writer.wait()
        return self.saved_step

    def abandon(self) -> None:
        """Give up the save in flight: for who must leave at once. The one before stays."""
        self._writer.abandon()

    @property
    def saved_step(self) -> int | None:
        """The step of the newest checkpoint that this manager has committed, or None."""
        return self._writer.saved_step

    @property
    def failed_step(self) -> int | None:
        """The step of the newest checkpoint, if it could not be saved, or None."""
        return self._writer.failed_step

    def trouble(self) -> dict[str, Any]:
        """Return how many saves failed, why the last of these did, and whether the newest did; {} without a failure."""
        if not self._writer.failures:
            return {}
        failing = self.failed_step is not None
        return {"failures": self._writer.failures, "last_error": self._writer.last_error, "failing": failing}

    def before_commit(self, work: Callable[[], None]) -> None:
        """Do `work` before each checkpoint gets its name, in the thread that writes.

        A runner makes its journal durable there, so that no checkpoint is ahead of it.
        """
        self._writer.before_commit = work

    def find(self, step: int | None = None) -> Path | None:
        """Return the newest valid checkpoint, or that of `step`; None if there is none.

        A damaged one is said, set aside as `*.corrupt`, and passed over. The newest one that a manager finds before it
        has saved anything counts as resumed from: see `protect`. Of several ranks the first asks, and tells the others.
        """
        self.wait()
        path = find_valid(self._folder, step)
        if path is not None and step is None and self.saved_step is None:
            self._protected = step_of(path)
        return path

    def load_latest_checkpoint(self, map_location: Any = "cpu") -> dict[str, Any] | None:
        """Load the newest valid checkpoint, see `find`.

        Args:
            map_location: where tensors go, as for `torch.load`.

        Returns:
            The checkpoint, with whole tensors, or None if there is no valid one.
        """
        return self._load(None, map_location)

    def load_checkpoint(self, step: int, map_location: Any = "cpu") -> dict[str, Any] | None:
        """Load the checkpoint of `step`; return None, with a warning, if it is missing or damaged."""
        return self._load(step, map_location)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int | None:
        """Load the newest valid checkpoint into `model` and `optimizer`, wrapped or not, and protect it.

        If `model` is sharded all ranks call this, and each reads its part of what the first has found.

        Returns:
            Its step, or None if there is no valid one: then nothing was changed.

        Raises:
            ResumeError: the checkpoint is of another model or optimizer.
        """
        check_parts(model, optimizer)
        self.wait()
        ranks = self._ranks(model) or Dist()
        path = ranks.broadcast(ranks.together(lambda: self.find() if ranks.is_main else None))
        if path is None:
            return None
        step = int(ranks.together(lambda: load_into(path, model, optimizer))["step"])
        self.protect(step)
        return step

    def protect(self, step: int) -> None:
        """Keep the checkpoint of `step`, the one resumed from, until another one is protected."""
        self._protected = step

    def rewind(self, step: int) -> list[Path]:
        """Set aside the checkpoints after `step` as `*.rewound`, and return their new paths.

        For a run that goes on from an older checkpoint: the later ones are of a course of training that it leaves, and
        a resume must not find them.
        """
        self.wait()
        later = [path for known, path in self._folder.all_files() if known > step]
        return [self._folder.set_aside(path, "rewound") for path in later]

    def verify_checkpoint(self, path: Path | str) -> bool:
        """Whether the file at `path` is a valid checkpoint; if not, the reason is logged."""
        problem = problem_of(Path(path))
        if problem is not None:
            logger.warning("%s is no valid checkpoint: %s", path, problem)
        return problem is None

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that there are, the newest first; none of them is read."""
        return list(self._folder.files())

    def list_checkpoints(self) -> list[CheckpointInfo]:
        """Return what is known of each checkpoint, oldest step first; each is read whole, to verify it."""
        self.wait()
        return list_folder(self._folder)

    def latest_path(self) -> Path | None:
        """Return the path of the newest valid checkpoint."""
        return next((path for path in self._folder.files().values() if problem_of(path) is None), None)

    def best_path(self) -> Path | None:
        """Return the newest checkpoint that was saved with `is_best`; if there is none, the best by `monitor`."""
        return self._folder.best((self.monitor, self.mode))

    def _tidy(self, committed: Path) -> None:
        self._folder.tidy(committed, self.keep_last_n, self._protected, self.keep, (self.monitor, self.mode))

    def _load(self, step: int | None, map_location: Any) -> dict[str, Any] | None:
        while (path := self.find(step)) is not None:
            with contextlib.suppress(FileNotFoundError):  # meanwhile deleted by a training process
                return read_checkpoint(path, map_location)
        return None

    def _ranks(self, model: nn.Module) -> Dist | None:
        """Return who holds the shards of `model`; None if it is whole. All ranks must call it."""
        if not has_shards(model):
            return None
        if self._dist is None:
            self._dist = Dist.current()
        return self._dist
