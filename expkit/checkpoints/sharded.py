"""One sharded checkpoint: an immutable folder, written by all ranks together, verified and read by any number."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.checkpoint_folder import STATE, FileNote, write_manifest
from expkit.checkpoints.storage import write_checkpoint
from expkit.dist import Dist
from expkit.files import atomic_folder, digest, remove_folder

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["write_sharded"]


def write_sharded(
    path: Path,
    state: Mapping[str, Any],
    shards: Mapping[str, DTensor],
    ranks: Dist,
    verify: bool = True,
    before_commit: Callable[[], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Write a checkpoint as the folder `path`, atomically and durably. All ranks call this together.

    What is at `path` already stays there as `*.old` until the new one has taken its place, and is left to the caller.

    Args:
        path: the folder.
        state: all but the shards; that of rank 0 counts.
        shards: name -> tensor, of which each rank holds and writes its part.
        ranks: who takes part.
        verify: read back what each rank has written, before the folder gets its name.
        before_commit: called on rank 0 before it gets its name.
        cancelled: asked now and then whether to give up.

    Raises:
        OSError: it was cancelled, or the disk of a rank is full or broken; on all ranks. What was there is still there.
    """
    from expkit.checkpoints.dcp import write_tensors

    with contextlib.ExitStack() as stack:
        making = ranks.together(lambda: stack.enter_context(atomic_folder(path)) if ranks.is_main else None)
        folder: Path = ranks.broadcast(making)
        mine = write_tensors(folder, shards, ranks.group, cancelled)

        def finish_mine() -> None:
            if ranks.is_main:
                write_checkpoint(folder / STATE, state, verify, cancelled=cancelled)
                mine[STATE] = {"bytes": (folder / STATE).stat().st_size, "sha256": digest(folder / STATE)}
            _check_written(folder, mine, verify)

        ranks.together(finish_mine)
        notes = {name: note for each in ranks.gather_all(mine) for name, note in each.items()}

        def commit() -> None:
            if not ranks.is_main:
                return
            write_manifest(folder, state["step"], ranks.world_size, notes)
            if before_commit is not None:
                before_commit()
            if path.exists():
                _make_way(path)
            stack.close()

        ranks.together(commit)


def _check_written(folder: Path, files: Mapping[str, FileNote], verify: bool) -> None:
    for name, note in files.items():
        size = (folder / name).stat().st_size
        if size != note["bytes"]:
            raise OSError(errno.EIO, f"of {note['bytes']:,} bytes of {name} only {size:,} have arrived")
        if verify and digest(folder / name) != note["sha256"]:
            raise OSError(errno.EIO, f"what was written reads back wrong: {name}")


def _make_way(path: Path) -> None:
    """Give the folder at `path` another name that is still found: a folder that is not empty cannot be replaced."""
    old = path.with_name(f"{path.name}.old")
    if old.exists():
        remove_folder(old)
    path.rename(old)
