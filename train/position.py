"""Where a run stands: after its next update, past the batches that rewinds pass over, and in a checkpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from expkit.diagnostics import DiagnosticSuite
from expkit.dist import Control
from expkit.schedule import Progress
from expkit.series import StepSeries
from train.best import Best
from train.config.trainer import TrainerConfig
from train.data import Batches
from train.shares import StepBatches

__all__ = ["LOSSES_KEPT", "Standing", "after", "bring_to", "pass_over", "state_of", "still_to_pass"]

#: Losses of records in memory and in each checkpoint; the journal has all. A long run must not grow by them.
LOSSES_KEPT = 10_000


class Standing(Protocol):
    """What of a runner tells where the run stands: see `train.runner.Runner` for each."""

    config: TrainerConfig
    train: Batches
    control: Control
    best: Best
    diagnostics: DiagnosticSuite
    progress: Progress
    passes: Mapping[int, int]
    series: StepSeries | None
    pending_series: dict[str, Any] | None
    loss_history: deque[float]


def after(now: Progress, batches: StepBatches) -> Progress:
    """Return where a run stands once these batches are trained on, but for their samples."""
    last = batches.last
    return Progress(  # dataclasses.replace takes six times as long
        step=now.step + 1,
        epoch=now.epoch + last,
        batch=0 if last else now.batch + 1,
        samples=now.samples,
        skipped=now.skipped,
        epoch_ended=last,
        elapsed=now.elapsed,
        previous_elapsed=now.previous_elapsed,
    )


def pass_over(progress: Progress, passes: Mapping[int, int], per_epoch: int | None) -> bool:
    """Bring `progress` past the batches that are passed over up to its step, if it is not. Return whether it was.

    By how many it has passed over, as a checkpoint of that step may be from before the rewind.

    Args:
        progress: changed in place.
        passes: step -> how many batches are passed over once it is done.
        per_epoch: batches of an epoch, or None if only the loader knows.
    """
    batches = still_to_pass(passes, progress.step, progress.skipped) if passes else 0
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


def state_of(runner: Standing) -> dict[str, Any]:
    """Return where a run stands: what a resume needs besides model, optimizer and generators."""
    progress = runner.progress
    series = runner.series.state_dict() if runner.series is not None else runner.pending_series
    return {
        "cursor": {"epoch": progress.epoch, "batch": progress.batch, "skipped": progress.skipped},
        "loader": None if progress.step in runner.passes else runner.train.state_dict(),
        "batch_size": runner.config.batch_size,
        "step": progress.step,
        "samples": progress.samples,
        "epoch_ended": progress.epoch_ended,
        "elapsed": runner.control.elapsed,
        "best": runner.best.state_dict(),
        "series": series,
        "diagnostics": runner.diagnostics.state_dict(),
        "diagnostics_intervals": runner.diagnostics.multiples(),
    }


def bring_to(runner: Standing, state: Mapping[str, Any], loss_history: Sequence[float] = ()) -> None:
    """Bring a run to where `state_of` found it.

    Args:
        runner: changed.
        state: what `state_of` returned.
        loss_history: the losses so far, or the last of them.
    """
    cursor = state["cursor"]
    batch = cursor["batch"]
    if runner.train.size is not None:  # the order of samples does not depend on the size of a batch
        batch = batch * state["batch_size"] // runner.config.batch_size
    runner.progress = Progress(
        step=state["step"],
        epoch=cursor["epoch"],
        batch=batch,
        samples=state["samples"],
        skipped=cursor["skipped"],
        epoch_ended=state["epoch_ended"],
        elapsed=state["elapsed"],
        previous_elapsed=state["elapsed"],
    )
    passed = pass_over(runner.progress, runner.passes, runner.train.steps)
    runner.train.load_state_dict(None if passed else state.get("loader"))  # it is drawn again from the epoch's start
    runner.control.go_on_from(state["elapsed"])
    runner.best.load_state_dict(state["best"])
    runner.series, runner.pending_series = None, state["series"]
    runner.loss_history = deque(loss_history, maxlen=LOSSES_KEPT)
    runner.diagnostics.load_state_dict(state["diagnostics"])
    runner.diagnostics.load_multiples(state.get("diagnostics_intervals", {}))
