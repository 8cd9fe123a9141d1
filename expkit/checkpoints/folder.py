"""The folder of checkpoints: which files there are, which one is the best, which may go.

The links (`checkpoint_latest.pt`, `checkpoint_best.pt`) are for people: written here, and never read.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from pathlib import Path

from expkit.checkpoints.storage import checkpoint_error, read_checkpoint, step_of
from expkit.files import write_link

__all__ = ["BEST_MARK", "CheckpointFolder"]

logger = logging.getLogger("expkit")

#: The key that marks a best checkpoint. It is inside the file, so that both are committed at the same moment.
BEST_MARK = "is_best"

Identity = tuple[int, int, int]


class CheckpointFolder:
    """The checkpoints in one folder, which need not be there yet.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._valid: dict[Identity, bool] = {}
        self._marked: dict[Identity, bool] = {}
        self._said: set[str] = set()

    def file(self, step: int) -> Path:
        """Return the path that the checkpoint of `step` has or would have."""
        return self.path / f"checkpoint_step_{step}.pt"

    def files(self) -> dict[int, Path]:
        """Return step -> path of the checkpoints that are there, valid or not, newest step first."""
        if not self.path.is_dir():
            return {}
        found = {step: path for path in self.path.iterdir() if (step := step_of(path)) is not None}
        return dict(sorted(found.items(), reverse=True))

    def best(self) -> Path | None:
        """Return the newest checkpoint that is marked as the best."""
        return next((path for path in self.files().values() if self._is_marked(path)), None)

    def set_aside(self, path: Path, why: str = "corrupt") -> Path:
        """Rename a checkpoint to `*.corrupt` (or another reason), never over another one; return the new path."""
        for number in itertools.count(1):
            aside = path.with_name(f"{path.name}.{why}" + (f".{number}" if number > 1 else ""))
            if not os.path.lexists(aside):
                break
        path.rename(aside)
        return aside

    def tidy(self, step: int, keep_last_n: int, protected: int | None) -> None:
        """After the checkpoint of `step` has been committed: point the links, delete what need not be kept.

        What stays: the newest `keep_last_n` valid ones (so the last valid one is never deleted), the best,
        the one of step `protected`, and those of steps after `step`, which are of another training.
        """
        files = self.files()
        later = [known for known in files if known > step]
        if later:
            self._say_once(
                "later",
                f"{self.path} holds checkpoints of later steps than {step} (up to {max(later)}), probably of "
                "an earlier training: they are left alone, but a resume would take them; move them away",
            )
        best = self.best()
        self._link("checkpoint_latest.pt", self.file(step))
        if best is not None:
            self._link("checkpoint_best.pt", best)
        valid = 0
        for known, path in files.items():
            if known in later:
                continue
            if valid < keep_last_n:
                valid += self._is_valid(path)
            elif path != best and known != protected:
                _delete(path)

    def _link(self, name: str, target: Path) -> None:
        link = self.path / name
        try:
            if link.exists() and not link.is_symlink():
                raise FileExistsError(errno.EEXIST, "a file that is no link has this name, and is left alone")
            write_link(link, target.name)  # relative: the run directory can be moved
        except OSError as error:
            self._say_once("links", f"the link {link} is not kept up to date, which does no harm: {error}")

    def _is_valid(self, path: Path) -> bool:
        """Verify a file, once: retention asks for the same ones at every save."""
        try:
            identity = _identity(path)
            if identity not in self._valid:
                self._valid[identity] = checkpoint_error(path) is None
            return self._valid[identity]
        except OSError:
            return False

    def _is_marked(self, path: Path) -> bool:
        try:
            identity = _identity(path)
            if identity not in self._marked:
                self._marked[identity] = read_checkpoint(path, mmap=True).get(BEST_MARK) is True
            return self._marked[identity]
        except Exception:  # noqa: BLE001 - a damaged file makes torch raise nearly anything, and is not the best
            return False

    def _say_once(self, subject: str, message: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            logger.warning(message)


def _identity(path: Path) -> Identity:
    """Return what changes with a file's content: inode, size, time of the last change."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("the old checkpoint %s cannot be deleted: %s", path, error)
