"""One checkpoint: a file written durably; a file or a folder of shards verified and read. Others are not known here."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from expkit.checkpoint_file import archive_error, damage, step_of
from expkit.checkpoint_folder import STATE, is_sharded
from expkit.checkpoints.output import Output
from expkit.checkpoints.shards import map_tensors, meta_tensors
from expkit.files import atomic_writer
from expkit.opening import open_file

__all__ = [
    "REQUIRED",
    "checkpoint_error",
    "checkpoint_size",
    "peek_checkpoint",
    "read_checkpoint",
    "step_of",
    "write_checkpoint",
]

#: The keys that every checkpoint has.
REQUIRED = ("model_state_dict", "optimizer_state_dict", "step", "loss_history", "config")


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
        output = Output(file, cancelled)
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

    A folder of shards gives whole tensors, however many processes have written it: the same as one file would.

    Args:
        path: the file or folder.
        map_location: where tensors go, as for `torch.load`; of a folder only a device counts.
        mmap: read tensors of a file only when they are used; quick, for a look at the plain values.
    """
    if not is_sharded(path):
        return _load(path, map_location, mmap)
    from expkit.checkpoints.dcp import read_tensors

    device = map_location if isinstance(map_location, str | torch.device) else "cpu"
    tensors: dict[str, torch.Tensor] = {}

    def make_room(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_meta:
            return tensor
        return tensors.setdefault(name, torch.empty(tensor.shape, dtype=tensor.dtype, device=device))

    checkpoint: dict[str, Any] = map_tensors(_load(path / STATE, map_location), make_room)
    read_tensors(path, tensors)
    return checkpoint


def peek_checkpoint(path: Path) -> dict[str, Any]:
    """Load `path` for a look at the plain values: tensors of a file are read when they are used, of shards not at all.

    In the place of a tensor that is in shards stands one on the device `meta`, of the same shape and type.
    """
    return _load(path / STATE if is_sharded(path) else path, mmap=True)


def _load(path: Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    open_file(path).close()  # OSError: torch would wait for a pipe
    checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    return checkpoint


def checkpoint_error(path: Path) -> str | None:
    """Return what is wrong with the checkpoint at `path`, a file or a folder, or None if it is valid.

    Valid means: every checksum is right, it loads with `weights_only=True`, and it holds what its name says.

    Raises:
        OSError: the file cannot be read, which says nothing about what is in it.
    """
    problem = archive_error(path)
    if problem is not None:
        return problem
    try:
        checkpoint = peek_checkpoint(path)
    except Exception as error:  # noqa: BLE001 - damaged bytes make torch raise nearly anything
        if "Weights only load failed" in str(error):
            return "it holds something besides tensors and plain values, which may run code when loaded: refused"
        return damage(error)
    problem = _content_error(checkpoint, step_of(path))
    if problem is None and is_sharded(path):
        from expkit.checkpoints.dcp import tensors_error

        return tensors_error(path, meta_tensors(checkpoint))
    return problem


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


def _save(state: Mapping[str, Any], output: Output) -> None:
    try:
        torch.save(state, output)  # type: ignore[arg-type]  # torch needs write and flush only
    except (OSError, RuntimeError) as failure:
        # Kept in `output`, the error would keep its frames, those torch's writer, and that again `output`: a circle
        # through C++, which is never collected, with the whole state in it.
        error, output.error = output.error, None
        # torch hides a full disk behind "unexpected pos"; other RuntimeErrors (CUDA, say) are no file's.
        if error is None or error is failure:
            raise
        raise error from None


@contextlib.contextmanager
def _checksums() -> Iterator[None]:
    """Make torch write checksums, whatever this process has set."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


class _Nowhere:
    """A file that only counts."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: memoryview) -> int:
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        pass
