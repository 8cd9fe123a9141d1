"""Writing the checkpoints of a run: one at a time, beside training if that is wanted, and said if it fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from expkit.background import Background
from expkit.checkpoints.folder import BEST_MARK, CheckpointFolder
from expkit.checkpoints.staging import Staging, fits_in_memory, state_bytes
from expkit.checkpoints.storage import checkpoint_size, write_checkpoint
from expkit.errors import describe
from expkit.files import free_gb, remove_stale_temporaries

__all__ = ["CheckpointWriter"]

logger = logging.getLogger("expkit")


class CheckpointWriter:
    """Writes states into a folder.

    Args:
        folder: where they go; it is made if need be.
        verify_every: read every so many-th one back before it gets its name.
        async_save: write in a thread, if there is memory for a copy of the state.
        tidy: called as `tidy(step)` after each commit, in the same thread.

    Attributes:
        before_commit: called before a file gets its name, in the thread that writes.
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
        tidy: Callable[[int], None],
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

    def write(self, step: int, state: dict[str, Any], is_best: bool, verify: bool | None = None) -> Path | None:
        """Write `state`. Return its path, or None if that failed; in a thread, the path to be."""
        self._background.wait()
        if verify is None:
            verify = self._count % self._verify_every == 0
        self._count += 1
        staged = self._copy(state) if self._async else None
        if staged is None:
            return self._write(step, state, is_best, verify, self._abandoned)
        copied, ready = staged
        abandoned = self._abandoned
        self._background.submit(lambda: self._write_beside(step, copied, is_best, verify, abandoned, ready))
        return self._folder.file(step)

    def wait(self) -> None:
        """Wait for the one that is being written, if any."""
        self._background.wait()

    def abandon(self) -> None:
        """Give up the one that is being written; a disk that does not answer is waited for only for a moment."""
        self._abandoned.set()
        self._background.abandon()
        self._abandoned, self._staging = threading.Event(), Staging()  # the thread has the old ones still

    def _copy(self, state: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], None]] | None:
        """Return a copy of `state`, and what to call before it is read; None if there is no memory for it."""
        missing = state_bytes(state) - self._staging.size  # buffers of earlier copies are there already
        if missing <= 0 or fits_in_memory(missing):
            try:
                return self._staging.copy(state)
            except (MemoryError, RuntimeError):  # how torch says that an allocation, pinned or not, has failed
                self._staging = Staging()
        if not self._said_memory:
            self._said_memory = True
            logger.warning("training waits for each checkpoint: there is no memory for a copy of %s bytes", missing)
        return None

    def _write_beside(
        self,
        step: int,
        state: dict[str, Any],
        is_best: bool,
        verify: bool,
        abandoned: threading.Event,
        ready: Callable[[], None],
    ) -> None:
        try:
            ready()
            self._write(step, state, is_best, verify, abandoned)
        except Exception as error:  # noqa: BLE001 - it has no caller who would hear of it
            self.failed_step = step
            self.failures += 1
            self.last_error = describe(error)
            logger.error("checkpoint of step %d not saved (%s)", step, self.last_error)

    def _write(
        self, step: int, state: dict[str, Any], is_best: bool, verify: bool, abandoned: threading.Event
    ) -> Path | None:
        folder, path = self._folder, self._folder.file(step)
        try:
            if self.saved_step is not None and not folder.path.is_dir():
                logger.warning("%s is gone, and the checkpoints in it: it is made anew", folder.path)
            folder.path.mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(folder.path, prefix="checkpoint_")
            # The best that is saved once more (at the end, say) is the best still.
            if is_best or path == folder.best():
                state[BEST_MARK] = True
            write_checkpoint(path, state, verify, self.before_commit, abandoned.is_set)
        except OSError as error:
            if not abandoned.is_set():
                self._failed(step, state, error)
            return None
        if self.failed_step is not None:
            logger.warning("checkpoint of step %d saved: %s can be written again", step, folder.path)
        self.saved_step, self.failed_step = step, None
        try:
            folder.wrote(path, state, verify)
            self._tidy(step)
        except Exception as error:  # noqa: BLE001 - policies of a user's own may fail; the checkpoint is there
            logger.warning("the checkpoint folder %s cannot be tidied up: %s", folder.path, describe(error))
        return path

    def _failed(self, step: int, state: dict[str, Any], error: OSError) -> None:
        """Count a failure; say it, unless the one before failed too."""
        first, self.failed_step = self.failed_step is None, step
        self.failures += 1
        self.last_error = error.strerror or str(error)
        if first:
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
