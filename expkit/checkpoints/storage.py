"""One checkpoint file: written durably, verified, read. Nothing here knows of other checkpoints beside it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from expkit.checkpoint_file import archive_error, damage, step_of
from expkit.files import atomic_writer

__all__ = [
    "REQUIRED",
    "checkpoint_error",
    "checkpoint_size",
    "read_checkpoint",
    "step_of",
    "write_checkpoint",
]

#: The keys that every checkpoint has.
REQUIRED = ("model_state_dict", "optimizer_state_dict", "step", "loss_history", "config")

#: Bytes that are written before anybody asks again whether to give up.
_CHUNK = 1 << 24


def write_checkpoint(
    path: Path,
    state: Mapping[str, Any],
    verify: bool = True,
    before_commit: Callable[[], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Write `state` to `path` atomically and durably.

    Args:
        path: the file.
        state: what `torch.save` can write.
        verify: read it back before it gets its name; what reads back wrong never gets it. Without, only its size is
            looked at.
        before_commit: called before it gets its name.
        cancelled: asked now and then whether to give up.

    Raises:
        OSError: it was cancelled (ECANCELED), or the disk is full or broken. What was at `path` before is still there.
    """
    with atomic_writer(path) as file, _checksums():
        output = _Output(file, cancelled)
        _save(state, output)
        file.flush()
        written = Path(file.name)
        problem = checkpoint_error(written) if verify else None
        if written.stat().st_size != output.size:
            problem = f"of {output.size:,} bytes only {written.stat().st_size:,} have arrived"
        if problem is not None:
            raise OSError(errno.EIO, f"what was written reads back wrong: {problem}")
        if before_commit is not None:
            before_commit()


def read_checkpoint(path: Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Load `path` without executing anything in it. It does not verify: see `checkpoint_error`.

    Args:
        path: the file.
        map_location: where tensors go, as for `torch.load`.
        mmap: read tensors only when they are used; quick, for a look at the plain values.
    """
    checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    return checkpoint


def checkpoint_error(path: Path) -> str | None:
    """Return what is wrong with the checkpoint at `path`, or None if it is valid.

    Valid means: every checksum is right, it loads with `weights_only=True`, and it holds what its name says.

    Raises:
        OSError: the file cannot be read, which says nothing about what is in it.
    """
    problem = archive_error(path)
    if problem is not None:
        return problem
    try:
        checkpoint = read_checkpoint(path, mmap=True)
    except Exception as error:  # noqa: BLE001 - damaged bytes make torch raise nearly anything
        if "Weights only load failed" in str(error):
            return "it holds something besides tensors and plain values, which may run code when loaded: refused"
        return damage(error)
    return _content_error(checkpoint, step_of(path))


def _content_error(checkpoint: Any, step: int | None) -> str | None:
    if not isinstance(checkpoint, dict):
        return f"it holds a {type(checkpoint).__name__} and is no checkpoint"
    missing = [key for key in REQUIRED if key not in checkpoint]
    if missing:
        return f"it lacks {', '.join(missing)} and is no checkpoint"
    if step is not None and checkpoint["step"] != step:
        return f"its name says step {step}, but it holds step {checkpoint['step']}"
    return None


def checkpoint_size(state: Mapping[str, Any]) -> int:
    """Return how many bytes `state` takes as a file, by writing it to nowhere."""
    nowhere = _Nowhere()
    torch.save(state, nowhere)  # type: ignore[arg-type]  # torch needs write and flush only
    return nowhere.size


def _save(state: Mapping[str, Any], output: _Output) -> None:
    try:
        torch.save(state, output)  # type: ignore[arg-type]  # torch needs write and flush only
    except RuntimeError:
        # torch hides a full disk behind "unexpected pos"; other RuntimeErrors (CUDA, say) are no file's.
        if output.error is None:
            raise
        raise output.error from None


@contextlib.contextmanager
def _checksums() -> Iterator[None]:
    """Make torch write checksums, whatever this process has set."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


class _Output:
    """A file that remembers what went wrong when it was written."""

    def __init__(self, file: BinaryIO, cancelled: Callable[[], bool]) -> None:
        self._file, self._cancelled = file, cancelled
        self.error: OSError | None = None
        self.size = 0

    def write(self, data: memoryview) -> int:
        try:
            for start in range(0, len(data), _CHUNK):
                if self._cancelled():
                    raise OSError(errno.ECANCELED, "given up")
                self.size += self._file.write(data[start : start + _CHUNK])
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        self._file.flush()


class _Nowhere:
    """A file that only counts."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: memoryview) -> int:
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        pass
