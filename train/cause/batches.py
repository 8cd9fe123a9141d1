"""The batch behind a step: which one it was, drawn once more, and what it holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from expkit.checkpoints.folder import CheckpointFolder
from expkit.checkpoints.storage import checkpoint_error, read_checkpoint
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.rng import fixed_seed
from train.data import Batches
from train.position import still_to_pass
from train.responses import passes
from train.resume import Origin

__all__ = ["FoundBatch", "Place", "batch_of", "finite", "place_before", "start_before", "tensors", "usable_checkpoints"]

#: What decides how many updates an epoch has: with another value a step is of another epoch.
_LAYOUT = ("task.", "trainer.batch_size:", "trainer.drop_last:", "trainer.grad_accumulation:")


@dataclass(frozen=True)
class Place:
    """Where a run stood after `step` updates: in `epoch` (from 0), with `batch` updates of it done.

    `loader` is the place of a loader of one's own that knows it, or None. After each step in `passes` so many batches
    are passed over; `skipped` of them were, before.
    """

    step: int
    epoch: int
    batch: int
    loader: Any = None
    skipped: int = 0
    passes: Mapping[int, int] = field(default_factory=dict)

    def passed(self, step: int) -> int:
        """Return how many batches are passed over from here up to the end of `step`."""
        return max(0, still_to_pass(self.passes, step, self.skipped))


@dataclass(frozen=True)
class FoundBatch:
    """What an update was made of.

    Attributes:
        step, epoch, number: of the update, all from 1; the number is that within the epoch.
        per_epoch: updates of an epoch, or None if only the loader knows.
        indices: of the samples, for each accumulated piece; None for a loader of one's own.
        pieces: the batch, in as many pieces as were accumulated.
        notes: in what it may not be what the run has had; [] if it is that, bit for bit.
    """

    step: int
    epoch: int
    number: int
    per_epoch: int | None
    indices: list[list[int]] | None
    pieces: list[Any]
    notes: list[str]


def usable_checkpoints(origin: Origin, before: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield step and content of each valid checkpoint of fewer than `before` steps, the newest first.

    Tensors are read when they are used. Nothing is renamed, unlike in a resume.
    """
    for step, path in CheckpointFolder(RunDir(origin.run).checkpoints).files().items():
        if origin.left is not None and step > origin.left:
            continue
        if step < before and checkpoint_error(path) is None:
            yield step, read_checkpoint(path, mmap=True)


def start_before(origin: Origin, step: int) -> tuple[int, dict[str, Any] | None]:
    """Return step and content of the newest valid checkpoint before `step` whose numbers are finite, or (0, None)."""
    for saved, state in usable_checkpoints(origin, step):
        parts = (state["model_state_dict"], state["optimizer_state_dict"])
        if all(finite(tensor) for part in parts for _, tensor in tensors(part)):
            return saved, state
    return 0, None


def finite(value: torch.Tensor) -> bool:
    """Whether all numbers of a tensor are finite."""
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def place_before(origin: Origin, step: int, batches: Batches) -> Place:
    """Return where the run stood before the update of `step`, or where it stood last before that for certain.

    That is its newest checkpoint before it, or else its beginning.

    Raises:
        UserError: epochs have changed their length since, and no checkpoint tells where that was.
    """
    for _, state in usable_checkpoints(origin, step):
        saved = state.get("sampler_state")
        if saved is None:
            continue
        batch = saved["cursor"]["batch"]
        if batches.size is not None:  # as in a resume: the order of samples does not depend on the size of a batch
            batch = batch * saved["batch_size"] // batches.batch_size
        cursor = saved["cursor"]
        passed = passes(origin.stored)
        return Place(saved["step"], cursor["epoch"], batch, saved.get("loader"), cursor["skipped"], passed)
    earlier = [resume for resume in origin.stored.get("resumes") or [] if resume["step"] < step]
    changed = [change for resume in earlier for change in resume.get("changed", ()) if change.startswith(_LAYOUT)]
    if changed or origin.stored.get("parent"):
        what = f"a resume has changed {changed[0]}" if changed else "the run began as a part of another"
        raise UserError(f"step {step} cannot be placed in its epoch: {what}, and no checkpoint before it is left")
    return Place(0, 0, 0, passes=passes(origin.stored))


def batch_of(batches: Batches, place: Place, step: int, max_epochs: int | None = None) -> FoundBatch:
    """Return the batch of the update of `step`, drawn once more.

    Args:
        batches: the training batches of the run, not iterated yet.
        place: where the run stood some time before.
        step: from 1.
        max_epochs: of the run.

    Raises:
        UserError: the run ends before.
    """
    per_epoch, ahead = batches.steps, step - 1 - place.step
    epoch, number = place.epoch, place.batch
    if per_epoch is None:
        return _searched(batches, place, step, max_epochs)
    if number >= per_epoch:  # resumed with fewer, larger batches
        epoch, number = epoch + 1, 0
    passed = place.passed(step - 1)
    epoch, number = epoch + (number + ahead + passed) // per_epoch, (number + ahead + passed) % per_epoch
    if max_epochs is not None and epoch >= max_epochs:
        raise UserError(f"step {step} would be of epoch {epoch + 1}, but the run ends with epoch {max_epochs}")
    if ahead == passed == 0 and place.loader is not None:
        batches.load_state_dict(place.loader)
    indices, notes = batches.indices(epoch, number), []
    pieces = _drawn(batches, epoch, number, 0)
    if indices is None:
        notes.append("the data loader is your own: its batches were drawn again, up to this one of the epoch")
    elif not _same(pieces, _drawn(batches, epoch, number, 1)):
        notes.append(
            "the data set draws from the global random generators: these are the samples that the run has had, with "
            "other random numbers"
        )
    return FoundBatch(step, epoch + 1, number + 1, per_epoch, indices, pieces, notes)


def _drawn(batches: Batches, epoch: int, number: int, seed: int) -> list[Any]:
    with fixed_seed(seed):
        return [batch for batch, _ in next(batches.epoch(epoch, skip=number)).pieces]


def _searched(batches: Batches, place: Place, step: int, max_epochs: int | None) -> FoundBatch:
    """Draw from a loader that does not tell its length until `step` comes."""
    if place.loader is not None:
        batches.load_state_dict(place.loader)
    at, skip, over = place.step, place.batch, place.passed(place.step)
    for epoch in itertools.count(place.epoch):
        if max_epochs is not None and epoch >= max_epochs:
            break
        ended = False
        for number, found in enumerate(batches.epoch(epoch, skip=skip), start=skip + 1):
            if over:  # up to the end of the epoch, at most
                over, ended = over - 1, False
                continue
            at, ended = at + 1, found.last
            over = place.passes.get(at, 0)
            if at == step:
                notes = [f"the data loader is your own: its batches were drawn again from step {place.step} on"]
                return FoundBatch(step, epoch + 1, number, None, None, [batch for batch, _ in found.pieces], notes)
        skip, over = 0, over if ended else 0
    raise UserError(f"step {step} does not come: the run ends with epoch {max_epochs}, at step {at}")


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield path and tensor for all tensors in a batch, which may be nested in tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield name or "batch", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        fields = getattr(value, "_fields", range(len(value)))
        for field, item in zip(fields, value, strict=True):
            yield from tensors(item, f"{name}[{field}]" if isinstance(field, int) else f"{name}.{field}".lstrip("."))


def _same(one: list[Any], other: list[Any]) -> bool:
    pairs = itertools.zip_longest(*(list(tensors(batch)) for batch in (one, other)), fillvalue=("", torch.empty(0)))
    return all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b)) for (_, a), (_, b) in pairs
    )


def _bits(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose NaN equal themselves."""
    plain = value.to_dense() if value.layout is not torch.strided else value
    return plain.detach().contiguous().flatten().view(torch.uint8)
