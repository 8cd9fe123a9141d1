"""CheckpointManager: when to save, how many to keep, which one to resume from."""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from expkit.checkpoints.folder import BEST_MARK, CheckpointFolder
from expkit.checkpoints.state import collect_state, load_model_state
from expkit.checkpoints.storage import checkpoint_error, checkpoint_size, read_checkpoint, write_checkpoint
from expkit.errors import ResumeError, UserError
from expkit.experiment import RunDir
from expkit.files import free_gb, remove_stale_temporaries
from expkit.schedule import Every, Progress

__all__ = ["CheckpointInfo", "CheckpointManager"]

logger = logging.getLogger("expkit")


class CheckpointInfo(TypedDict):
    """What `list_checkpoints` says of one: `size_mb` in MB of 1024^2 bytes, `modified` as local time."""

    step: int
    path: Path
    size_mb: float
    modified: str
    valid: bool


class CheckpointManager:
    """Saves checkpoints under `experiment_dir/checkpoints` and finds the newest good one again.

    Args:
        experiment_dir: the run directory; its `checkpoints` folder is made at the first save.
        save_interval: steps between checkpoints, for `should_checkpoint`.
        keep_last_n: how many valid checkpoints to keep, besides the best and the one resumed from.

    Raises:
        UserError: (a ValueError) `save_interval` or `keep_last_n` is no whole number of at least 1.
    """

    def __init__(self, experiment_dir: Path | str, save_interval: int = 1000, keep_last_n: int = 3) -> None:
        self.save_interval = _whole_number("save_interval", save_interval, at_least=1)
        self.keep_last_n = _whole_number("keep_last_n", keep_last_n, at_least=1)
        self._folder = CheckpointFolder(RunDir(experiment_dir).checkpoints)
        self._protected: int | None = None
        self._has_saved = False

    def should_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` updates; never at 0."""
        return Every(steps=self.save_interval).due(Progress(step=step))

    def save_checkpoint(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_history: Any,
        config: Any,
        is_best: bool = False,
        **extra: Any,
    ) -> Path | None:
        """Save a checkpoint durably, point the links at it, and delete what need not be kept.

        Args:
            step: updates done.
            model: its `state_dict` is taken, out of DataParallel, DDP and torch.compile.
            optimizer: its `state_dict` is taken.
            loss_history: the losses so far.
            config: the configuration; stored as plain JSON types.
            is_best: make it the best one, which is kept until a later one is the best.
            extra: more state, each under its own key: `scheduler_state_dict`, `scaler_state_dict`,
                `rng_state`, `sampler_state`, `detector_state`, `journal_state`, ...

        Returns:
            The path, or None if the disk is full or broken: that is logged, and training can go on.

        Raises:
            StateError: (a UserError and a TypeError) a value could not be loaded again; nothing was written.
            UserError: `step` is no step, or a name in `extra` is one of the checkpoint's own.
        """
        step = _whole_number("step", step, at_least=0)
        state = collect_state(step, model, optimizer, loss_history, config, extra)
        path = self._folder.file(step)
        try:
            self._folder.path.mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(self._folder.path, prefix="checkpoint_")
            # The best that is saved once more (at the end, say) is the best still.
            if is_best or path == self._folder.best():
                state[BEST_MARK] = True
            write_checkpoint(path, state)
        except OSError as error:
            self._say_unsaved(step, state, error)
            return None
        self._has_saved = True
        try:
            self._folder.tidy(step, self.keep_last_n, self._protected)
        except OSError as error:
            logger.warning("the checkpoint folder %s cannot be tidied up: %s", self._folder.path, error)
        return path

    def load_latest_checkpoint(self, map_location: Any = "cpu") -> dict[str, Any] | None:
        """Load the newest valid checkpoint. A damaged one is said, set aside as `*.corrupt`, and passed over.

        What a manager loads before it has saved anything counts as resumed from: see `protect`.

        Args:
            map_location: where tensors go, as for `torch.load`.

        Returns:
            The checkpoint, or None if there is no valid one.
        """
        files = self._folder.files()
        for step, path in files.items():
            checkpoint = self._load(path, map_location)
            if checkpoint is not None:
                if not self._has_saved:
                    self.protect(step)
                return checkpoint
        if files:
            logger.error("none of the %d checkpoints in %s can be loaded", len(files), self._folder.path)
        return None

    def load_checkpoint(self, step: int, map_location: Any = "cpu") -> dict[str, Any] | None:
        """Load the checkpoint of `step`; return None, with a warning, if it is missing or damaged."""
        files = self._folder.files()
        if step in files:
            return self._load(files[step], map_location)
        there = ", ".join(map(str, files)) or "none"
        logger.warning("there is no checkpoint of step %s in %s; there are: %s", step, self._folder.path, there)
        return None

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int | None:
        """Load the newest valid checkpoint into `model` and `optimizer`, wrapped or not, and protect it.

        Returns:
            Its step, or None if there is no valid one: then nothing was changed.

        Raises:
            ResumeError: the checkpoint is of another model or optimizer.
        """
        checkpoint = self.load_latest_checkpoint()
        if checkpoint is None:
            return None
        load_model_state(model, checkpoint["model_state_dict"])
        if optimizer is not None:
            try:
                optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
            except (KeyError, ValueError) as error:
                raise ResumeError(f"the checkpoint does not fit the optimizer: {error}") from error
        step = int(checkpoint["step"])
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
        later = [path for known, path in self._folder.files().items() if known > step]
        return [self._folder.set_aside(path, "rewound") for path in later]

    def verify_checkpoint(self, path: Path | str) -> bool:
        """Whether the file at `path` is a valid checkpoint; if not, the reason is logged."""
        problem = _problem(Path(path))
        if problem is not None:
            logger.warning("%s is no valid checkpoint: %s", path, problem)
        return problem is None

    def list_checkpoints(self) -> list[CheckpointInfo]:
        """Return what is known of each checkpoint, oldest step first; each is read whole, to verify it."""
        listing: list[CheckpointInfo] = []
        for step, path in reversed(self._folder.files().items()):
            with contextlib.suppress(FileNotFoundError):  # a training process may delete old ones meanwhile
                stat = path.stat()
                listing.append(
                    {
                        "step": step,
                        "path": path,
                        "size_mb": stat.st_size / 1024**2,
                        "modified": f"{datetime.fromtimestamp(stat.st_mtime):%Y-%m-%d %H:%M:%S}",
                        "valid": _problem(path) is None,
                    }
                )
        return listing

    def latest_path(self) -> Path | None:
        """Return the path of the newest valid checkpoint."""
        return next((path for path in self._folder.files().values() if _problem(path) is None), None)

    def best_path(self) -> Path | None:
        """Return the path of the newest checkpoint that was saved with `is_best`."""
        return self._folder.best()

    def _load(self, path: Path, map_location: Any) -> dict[str, Any] | None:
        try:
            problem = checkpoint_error(path)
            if problem is None:
                return read_checkpoint(path, map_location)
            aside = self._folder.set_aside(path)
        except FileNotFoundError:  # meanwhile deleted by a training process, or set aside by another rank
            return None
        except OSError as error:
            logger.warning("%s is passed over, as it cannot be read or renamed: %s", path, error)
            return None
        logger.warning(
            "%s is no valid checkpoint: %s. It is set aside as %s: put back an intact copy if there is one",
            path,
            problem,
            aside.name,
        )
        return None

    def _say_unsaved(self, step: int, state: Mapping[str, Any], error: OSError) -> None:
        logger.warning(
            "checkpoint of step %d not saved (%s): %s bytes needed, %s bytes free in %s. The older ones "
            "are kept, training goes on, and the next save tries again",
            step,
            error,
            f"{checkpoint_size(state):,}",
            _free_bytes(self._folder.path),
            self._folder.path,
        )


def _free_bytes(folder: Path) -> str:
    try:
        return f"{int(free_gb(folder) * 1024**3):,}"
    except OSError:
        return "unknown"


def _problem(path: Path) -> str | None:
    try:
        return checkpoint_error(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"


def _whole_number(name: str, value: Any, at_least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least or isinstance(value, bool):
        raise UserError(f"{name} must be a whole number of at least {at_least}, not {value!r}")
    return number
