"""The checkpoint of a snapshot: which one, its second name, and its weights in another format."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from expkit.checkpoint_file import archive_error, step_of
from expkit.checkpoint_folder import is_sharded
from expkit.experiment import RunDir
from expkit.snapshots.files import copy_from, link_or_open, sync

__all__ = ["candidates", "export", "first_intact", "second_names"]

log = logging.getLogger("expkit")

_Left = list[tuple[BinaryIO, Path]]


def second_names(checkpoints: Sequence[Path], folder: Path) -> Iterator[tuple[Path, Path, _Left]]:
    """Yield (path, second name in `folder`, what is to be copied and where to) of each that is there, one by one."""
    for path in checkpoints:
        step = step_of(path) if step_of(path) is not None else step_of(path.resolve())
        if step is None:
            continue
        name = folder / (f"checkpoint_step_{step}" if is_sharded(path) else f"checkpoint_step_{step}.pt")
        try:
            left = link_or_open(path, name)
        except FileNotFoundError:
            _remove(name)
            continue
        with ExitStack() as stack:
            for original, _ in left:
                stack.enter_context(original)
            yield path, name, left


def first_intact(names: Iterable[tuple[Path, Path, _Left]]) -> Path | None:
    """Return the second name of the first intact checkpoint, and leave no other; None if there is none."""
    for path, name, left in names:
        for original, copy in left:
            copy_from(original, copy)
        problem = archive_error(name)  # of the second name: the first may be deleted at any time
        if problem is None:
            return name
        log.warning("%s is passed over for a snapshot: %s", path, problem)
        _remove(name)
    return None


def _remove(name: Path) -> None:
    shutil.rmtree(name) if name.is_dir() else name.unlink(missing_ok=True)


def candidates(run: RunDir, wanted: Path | None, near: int | None, before: int | None) -> Iterator[Path]:
    """Yield the checkpoints that a snapshot may hold, the fitting one first; see `expkit.snapshots.creating.begin`."""
    if wanted is not None:
        yield wanted
    steps: dict[int, Path] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        steps = {step: path for path in run.checkpoints.iterdir() if (step := step_of(path)) is not None}
    steps = {step: path for step, path in steps.items() if before is None or step < before}
    for step in sorted(steps, key=lambda step: (0 if near is None else abs(step - near), -step)):
        yield steps[step]


def export(checkpoint: Path, target: Path) -> None:
    """Write the weights of a checkpoint in the safetensors format, a tensor that has several names once for each."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from expkit.checkpoints import read_checkpoint

    state = read_checkpoint(checkpoint, mmap=True)["model_state_dict"]
    seen: set[int] = set()
    weights = {}
    for name, tensor in state.items():
        if not hasattr(tensor, "untyped_storage"):
            continue  # extra state of a module's own
        storage = tensor.untyped_storage().data_ptr()
        weights[name] = tensor.clone().contiguous() if storage in seen else tensor.contiguous()
        seen.add(storage)
    try:
        save_file(weights, target, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(errno.EIO, f"the weights cannot be exported: {error}") from error
    sync(target)
