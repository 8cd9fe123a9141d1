"""Where a run stands after its next update, and past the batches that rewinds have told it to pass over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from expkit.schedule import Progress
from train.data import StepBatches

__all__ = ["after", "pass_over", "still_to_pass"]


def after(now: Progress, batches: StepBatches) -> Progress:
    """Return where a run stands once these batches are trained on, but for their samples."""
    last = batches.last
    return replace(
        now,
        step=now.step + 1,
        epoch=now.epoch + last,
        batch=0 if last else now.batch + 1,
        epoch_ended=last,
    )


def pass_over(progress: Progress, passes: Mapping[int, int], per_epoch: int | None) -> bool:
    """Bring `progress` past the batches that are passed over up to its step, if it is not. Return whether it was.

    By how many it has passed over, as a checkpoint of that step may be from before the rewind.

    Args:
        progress: changed in place.
        passes: step -> how many batches are passed over once it is done.
        per_epoch: batches of an epoch, or None if only the loader knows.
    """
    batches = still_to_pass(passes, progress.step, progress.skipped)
    if batches <= 0:
        return False
    progress.skipped += batches
    progress.batch += batches
    if per_epoch is not None and progress.batch >= per_epoch:
        progress.epoch += progress.batch // per_epoch
        progress.batch %= per_epoch
        progress.epoch_ended = True
    return True


def still_to_pass(passes: Mapping[int, int], step: int, skipped: int) -> int:
    """Return how many batches are passed over up to the end of `step`, but for `skipped`; 0 or less for none."""
    return sum(count for at, count in passes.items() if at <= step) - skipped
