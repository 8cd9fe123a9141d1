"""Writing the checkpoints of a run: one at a time, beside training if that is wanted, and said if it fails."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from expkit.background import Background
from expkit.checkpoints.folder import BEST_MARK, CheckpointFolder
from expkit.checkpoints.sharded import write_sharded
from expkit.checkpoints.shards import over_copies
from expkit.checkpoints.staging import Staging, fits_in_memory, state_bytes
from expkit.checkpoints.storage import checkpoint_size, step_of, write_checkpoint
from expkit.dist import Dist
from expkit.errors import describe
from expkit.files import free_gb, remove_stale_temporaries

__all__ = ["CheckpointWriter"]

logger = logging.getLogger("expkit")


@dataclass(frozen=True)
class _Save:
    """What is to be written.

    Attributes:
        step: updates done.
        state: all, or all but the shards.
        shards: name -> tensor that is spread over the ranks.
        ranks: who writes; more than one process writes shards only.
        is_best: mark it so.
        verify: read it back before it gets its name.
        path: where it goes.
        abandoned: whether to give up.
    """

    step: int
    state: dict[str, Any]
    shards: dict[str, Any]
    ranks: Dist
    is_best: bool
    verify: bool
    path: Path
    abandoned: threading.Event


class CheckpointWriter:
    """Writes states into a folder.

    Args:
        folder: where they go; it is made if need be.
        verify_every: read every so many-th one back before it gets its name.
        async_save: write in a thread, if there is memory for a copy of the state.
        tidy: called as `tidy(path)` after each commit, in the same thread; of several ranks on the first.

    Attributes:
        before_commit: called before a checkpoint gets its name, in the thread that writes; of several ranks on the
            first.
        saved_step: of the newest one that was committed, or None.
        failed_step: of the newest one, if it could not be written, or None.
        failures: how many could not be written.
        last_error: why the last of these could not.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        verify_every: int,
        async_save: bool | Literal["auto"],
        tidy: Callable[[Path], None],
    ) -> None:
        self.before_commit: Callable[[], None] | None = None
        self.saved_step: int | None = None
        self.failed_step: int | None = None
        self.failures = 0
        self.last_error = ""
        self._folder, self._tidy = folder, tidy
        self._verify_every, self._async = verify_every, bool(async_save)
        self._count = 0
        self._staging = Staging()
        self._background = Background("expkit checkpoint")
        self._said_memory = False
        self._abandoned = threading.Event()

    def write(
        self,
        step: int,
        state: dict[str, Any],
        is_best: bool,
        verify: bool | None = None,
        shards: dict[str, Any] | None = None,
        ranks: Dist | None = None,
    ) -> Path | None:
        """Write `state`. Return its path, or None if that failed; in a thread, the path to be.

        Args:
            step: updates done.
            state: what to write.
            is_best: mark it as the best.
            verify: read it back before it gets its name; None leaves that to `verify_every`.
            shards: what belongs to it and is spread over `ranks`, all of which then call this with the same arguments.
            ranks: None: this process alone, which writes one file.
        """
        self._background.wait()
        if verify is None:
            verify = self._count % self._verify_every == 0
        self._count += 1
        path = self._folder.file(step, sharded=ranks is not None)
        ranks = ranks or Dist()
        save = _Save(step, state if ranks.is_main else {}, shards or {}, ranks, is_best, verify, path, self._abandoned)
        staged = self._copy(save) if self._async else None
        if staged is None:
            return path if self._write(save) else None
        copied, ready = staged
        self._background.submit(lambda: self._write_beside(copied, ready))
        return path

    def wait(self) -> None:
        """Wait for the one that is being written, if any."""
        self._background.wait()

    def abandon(self) -> None:
        """Give up the one that is being written; a disk that does not answer is waited for only for a moment."""
        self._abandoned.set()
        self._background.abandon()
        self._abandoned, self._staging = threading.Event(), Staging()  # the thread has the old ones still

    def _copy(self, save: _Save) -> tuple[_Save, Callable[[], None]] | None:
        """Return `save` with a copy of its state, and what to call before that is read; None without memory for it."""
        mine = {name: shard.to_local() for name, shard in save.shards.items()}
        missing = state_bytes([save.state, mine]) - self._staging.size  # buffers of earlier copies are there already
        host = socket.gethostname()
        here = sum(size for name, size in save.ranks.gather_all((host, max(missing, 0))) if name == host)
        staged = None
        if here <= 0 or fits_in_memory(here):
            try:
                staged = self._staging.copy([save.state, mine])
            except (MemoryError, RuntimeError):  # how torch says that an allocation, pinned or not, has failed
                self._staging = Staging()
        everywhere = all(save.ranks.gather_all(staged is not None))
        if staged is not None and everywhere:
            (state, copies), ready = staged
            return replace(save, state=state, shards=over_copies(save.shards, copies) if copies else {}), ready
        if not self._said_memory and save.ranks.is_main:
            self._said_memory = True
            logger.warning("training waits for each checkpoint: there is no memory for a copy of %s bytes", missing)
        return None

    def _write_beside(self, save: _Save, ready: Callable[[], None]) -> None:
        try:
            ready()
            self._write(save)
        except Exception as error:  # noqa: BLE001 - it has no caller who would hear of it
            self.failed_step = save.step
            self.failures += 1
            self.last_error = describe(error)
            logger.error("checkpoint of step %d not saved (%s)", save.step, self.last_error)

    def _write(self, save: _Save) -> bool:
        try:
            save.ranks.together(lambda: self._prepare(save))
            state, verify, cancelled = save.state, save.verify, save.abandoned.is_set
            if save.path == self._folder.file(save.step):
                write_checkpoint(save.path, state, verify, self.before_commit, cancelled)
            else:
                write_sharded(save.path, state, save.shards, save.ranks, verify, self.before_commit, cancelled)
        except OSError as error:
            if not save.abandoned.is_set():
                self._failed(save, error)
            return False
        if self.failed_step is not None and save.ranks.is_main:
            logger.warning("checkpoint of step %d saved: %s can be written again", save.step, self._folder.path)
        self.saved_step, self.failed_step = save.step, None
        if save.ranks.is_main:
            try:
                self._folder.wrote(save.path, save.state, save.verify)
                self._tidy(save.path)
            except Exception as error:  # noqa: BLE001 - policies of a user's own may fail; the checkpoint is there
                logger.warning("the checkpoint folder %s cannot be tidied up: %s", self._folder.path, describe(error))
        return True

    def _prepare(self, save: _Save) -> None:
        if not save.ranks.is_main:
            return
        folder = self._folder
        if self.saved_step is not None and not folder.path.is_dir():
            logger.warning("%s is gone, and the checkpoints in it: it is made anew", folder.path)
        folder.path.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(folder.path, prefix="checkpoint_")
        # The best that is saved once more (at the end, say) is the best still.
        best = folder.best()
        if save.is_best or (best is not None and step_of(best) == save.step):
            save.state[BEST_MARK] = True

    def _failed(self, save: _Save, error: OSError) -> None:
        """Count a failure; say it, unless the one before failed too."""
        first, self.failed_step = self.failed_step is None, save.step
        self.failures += 1
        self.last_error = error.strerror or str(error)
        if first and save.ranks.is_main:
            shards = sum(shard.numel() * shard.element_size() for shard in save.shards.values())
            logger.warning(
                "checkpoint of step %d not saved (%s): %s bytes needed, %s bytes free in %s. The older ones "
                "are kept, training goes on, and the next save tries again",
                save.step,
                error,
                f"{checkpoint_size(save.state) + shards:,}",
                _free_bytes(self._folder.path),
                self._folder.path,
            )


def _free_bytes(folder: Path) -> str:
    try:
        return f"{int(free_gb(folder) * 1024**3):,}"
    except OSError:
        return "unknown"
