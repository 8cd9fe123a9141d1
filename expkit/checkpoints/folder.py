"""The folder of checkpoints: which files there are, which one is the best, which may go.

The links (`checkpoint_latest.pt`, `checkpoint_best.pt`) are for people: written here, and never read.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expkit.checkpoint_folder import MANIFEST, is_sharded
from expkit.checkpoints.keeping import KeepPolicy, Saved, score
from expkit.checkpoints.storage import checkpoint_error, peek_checkpoint, step_of
from expkit.files import remove_folder, write_link

__all__ = ["BEST_MARK", "CheckpointFolder", "Label"]

logger = logging.getLogger("expkit")

#: The key that marks a best checkpoint. It is inside the file, so that both are committed at the same moment.
BEST_MARK = "is_best"

Identity = tuple[int, int, int]


@dataclass(frozen=True)
class Label:
    """What a checkpoint says of itself, beside its state.

    Attributes:
        time: when it was saved, in seconds since 1970.
        reason: why it was saved.
        metrics: what was recorded at its step.
        is_best: it was the best so far.
    """

    time: float
    reason: str = ""
    metrics: Mapping[str, float] | None = None
    is_best: bool = False


class CheckpointFolder:
    """The checkpoints in one folder, which need not be there yet.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._valid: dict[Identity, bool] = {}
        self._written: set[Identity] = set()
        self._labels: dict[Identity, Label | None] = {}
        self._said: set[str] = set()

    def file(self, step: int, sharded: bool = False) -> Path:
        """Return the path that the checkpoint of `step` would have: a file, or a folder of shards."""
        return self.path / f"checkpoint_step_{step}{'' if sharded else '.pt'}"

    def all_files(self) -> list[tuple[int, Path]]:
        """Return step and path of the checkpoints that are there, valid or not, in the order in which to try them.

        The newest step comes first. Two of one step are left by a kill, in the moment in which the second took the
        place of the first; or one is a file and one a folder.
        """
        if not self.path.is_dir():
            return []
        found = [(step, path) for path in self.path.iterdir() if (step := step_of(path)) is not None]
        return sorted(found, key=lambda each: (-each[0], each[1].suffix == ".old", each[1].suffix))

    def files(self) -> dict[int, Path]:
        """Return step -> path of the checkpoints that are there, valid or not, newest step first."""
        found: dict[int, Path] = {}
        for step, path in self.all_files():
            found.setdefault(step, path)
        return found

    def best(self, monitor: tuple[str, str] | None = None) -> Path | None:
        """Return the newest checkpoint that is marked as the best; without a mark, that of the best score, if any."""
        files = self.files()
        for path in files.values():
            if (label := self.label(path)) is not None and label.is_best:
                return path
        saved = [each for step, path in files.items() if (each := self._saved(step, path, monitor)) is not None]
        scored = [(each.score, each.step) for each in saved if each.score is not None]
        return files[min(scored)[1]] if scored else None

    def label(self, path: Path) -> Label | None:
        """Return what a checkpoint says of itself, without reading its tensors; None for one that is damaged."""
        try:
            identity = _identity(path)
            if identity not in self._labels:
                self._labels[identity] = _label(peek_checkpoint(path), identity)
            return self._labels[identity]
        except Exception:  # noqa: BLE001 - a damaged file makes torch raise nearly anything
            return None

    def wrote(self, path: Path, state: Mapping[str, Any], verified: bool) -> None:
        """Take note of one that this process has just written and fsynced, and perhaps read back."""
        identity = _identity(path)
        self._written.add(identity)
        self._labels[identity] = _label(state, identity)
        if verified:
            self._valid[identity] = True

    def set_aside(self, path: Path, why: str = "corrupt") -> Path:
        """Rename a checkpoint to `*.corrupt` (or another reason), never over another one; return the new path."""
        for number in itertools.count(1):
            aside = path.with_name(f"{path.name}.{why}" + (f".{number}" if number > 1 else ""))
            if not os.path.lexists(aside):
                break
        path.rename(aside)
        return aside

    def tidy(
        self,
        committed: Path,
        keep_last_n: int,
        protected: int | None = None,
        policy: KeepPolicy | None = None,
        monitor: tuple[str, str] | None = None,
    ) -> None:
        """After a checkpoint has been committed: point the links, delete what need not be kept.

        What stays: the newest `keep_last_n` valid ones, the newest one that has been read back and found valid (so the
        last valid one is never deleted), the best, the one of step `protected`, what `policy` picks, and those of later
        steps, which are of another training.

        Args:
            committed: the new one.
            keep_last_n: how many of the newest.
            protected: the step of the one resumed from.
            policy: what to keep besides.
            monitor: the metric by which checkpoints are compared, and "min" or "max".
        """
        self._delete_replaced(committed)
        files, step = self.files(), step_of(committed)
        assert step is not None
        later = [known for known in files if known > step]
        if later:
            self._say_once(
                "later",
                f"{self.path} holds checkpoints of later steps than {step} (up to {max(later)}), probably of "
                "an earlier training: they are left alone, but a resume would take them; move them away",
            )
        best = self.best(monitor)
        self._link("checkpoint_latest.pt", committed)
        if best is not None:
            self._link("checkpoint_best.pt", best)
        mine = {known: path for known, path in files.items() if known <= step}
        if len(mine) <= keep_last_n:
            return
        keep = self._newest_valid(mine, keep_last_n)
        if policy is not None:
            keep |= policy.keep([saved for known, path in mine.items() if (saved := self._saved(known, path, monitor))])
        for known, path in reversed(mine.items()):  # oldest first
            if known not in keep and known != protected and path != best:
                self._delete(path)

    def _delete_replaced(self, committed: Path) -> None:
        """Delete those in whose place another one of the same step has come: now, or before a kill."""
        files = self.files() | {step_of(committed): committed}
        for step, path in self.all_files():
            if path != files[step] and (self._was_written(files[step]) or self._is_valid(files[step])):
                self._delete(path)

    def _newest_valid(self, files: Mapping[int, Path], count: int) -> set[int]:
        """Return the newest steps, of which `count` are valid as far as is known and one has been read back."""
        newest: set[int] = set()
        valid = 0
        for step, path in files.items():
            newest.add(step)  # also a damaged one that is among the newest: a person may want to look at it
            valid += self._was_written(path) or self._is_valid(path)
            if valid >= count:
                break
        if not any(self._is_verified(files[step]) for step in newest):
            older = [step for step in files if step not in newest]
            sure = next((step for step in older if self._is_verified(files[step])), None)
            if sure is None:  # of another process
                sure = next((step for step in older if self._is_valid(files[step])), None)
            newest |= {sure} if sure is not None else set()
        return newest

    def _saved(self, step: int, path: Path, monitor: tuple[str, str] | None) -> Saved | None:
        label = self.label(path)
        if label is None:
            return None
        metrics = label.metrics or {}
        return Saved(step, label.time, metrics, score(metrics, *monitor) if monitor is not None else None)

    def _link(self, name: str, target: Path) -> None:
        link = self.path / name
        try:
            if link.exists() and not link.is_symlink():
                raise FileExistsError(errno.EEXIST, "a file that is no link has this name, and is left alone")
            write_link(link, target.name)  # relative: the run directory can be moved
        except OSError as error:
            self._say_once("links", f"the link {link} is not kept up to date, which does no harm: {error}")

    def _was_written(self, path: Path) -> bool:
        try:
            return _identity(path) in self._written
        except OSError:
            return False

    def _is_verified(self, path: Path) -> bool:
        try:
            return self._valid.get(_identity(path), False)
        except OSError:
            return False

    def _is_valid(self, path: Path) -> bool:
        """Verify a file, once: retention asks for the same ones at every save."""
        try:
            identity = _identity(path)
            if identity not in self._valid:
                self._valid[identity] = checkpoint_error(path) is None
            return self._valid[identity]
        except OSError:
            return False

    def _delete(self, path: Path) -> None:
        try:
            identity = _identity(path)
            remove_folder(path) if is_sharded(path) else path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the old checkpoint %s cannot be deleted: %s", path, error)
            return
        self._valid.pop(identity, None)
        self._labels.pop(identity, None)
        self._written.discard(identity)

    def _say_once(self, subject: str, message: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            logger.warning(message)


def _identity(path: Path) -> Identity:
    """Return what changes with a file's content: inode, size, time of the last change; of a folder, its manifest's."""
    manifest = path / MANIFEST
    stat = (manifest if is_sharded(path) and manifest.exists() else path).stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _label(checkpoint: Mapping[str, Any], identity: Identity) -> Label:
    metrics, reason = checkpoint.get("metrics"), checkpoint.get("reason", "")
    numbers = {str(name): float(value) for name, value in metrics.items()} if isinstance(metrics, dict) else None
    time = checkpoint.get("time")
    return Label(
        time=time if isinstance(time, float) else identity[2] / 1e9,
        reason=reason if isinstance(reason, str) else "",
        metrics=numbers,
        is_best=checkpoint.get(BEST_MARK) is True,
    )
