"""What ranks do together at a step, besides the update: rank 0 looks, measures and records, and the others help it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from expkit.dist import Control
from expkit.schedule import Progress
from train.data import StepBatches

if TYPE_CHECKING:
    from train.runner import Runner

__all__ = ["agree", "before_update", "diagnose", "with_same_end"]


def with_same_end(runner: Runner, batches: StepBatches) -> StepBatches:
    """Return `batches`, the last of the epoch if they are so on any rank.

    Ranks that have loaders of their own, of unknown lengths, ask each other at every step.
    """
    train = runner.train
    if train.steps is not None or not train.is_shared_out:
        return batches
    return batches._replace(last=bool(runner.dist.any_bits(int(batches.last))))


def before_update(runner: Runner, ahead: Progress, last: bool) -> Callable[[], None] | None:
    """Return what looks at the gradients of the coming update, between clipping and the optimizer's step, or None.

    Args:
        runner: whose `looks` are asked.
        ahead: where the run stands after that update.
        last: whether the run ends with it.
    """
    looks = [found for look in runner.looks if (found := look(runner.model, ahead, last)) is not None]
    if not runner.strategy.is_sharded:
        return runner.watch.pausing(*looks) if looks and runner.dist.is_main else None
    if not runner.dist.broadcast(bool(looks)):  # rank 0 looks, at the whole that all ranks give it
        return None

    def look_at_whole() -> None:
        with runner.strategy.whole(runner.model, gradients=True) as model:
            for look in runner.looks if runner.dist.is_main else ():
                if (act := look(model, ahead, last)) is not None:
                    act()

    return runner.watch.pausing(look_at_whole)


def diagnose(runner: Runner) -> None:
    """Measure what is due of the diagnostics, on rank 0."""
    runner.dist.at(runner.progress.step, "measuring")
    with runner.watch.paused(), runner.strategy.whole(runner.model) as model:
        if not runner.dist.is_main:
            return
        runner.recorder.add(*runner.diagnostics.measure(model, due=True))
    if runner.diagnostics.too_long():
        runner.control.request(Control.DIAGNOSTICS)


def agree(runner: Runner, metrics: Mapping[str, float], is_best: bool) -> tuple[dict[str, float], bool]:
    """Let all ranks have what a record of rank 0 held, whether it was the best, and what has come of it for guards.

    What rank 0 asks for because of it is done after the next step, as one process would. On the way rank 0 hears what
    other machines say of themselves.
    """
    for sample in runner.dist.gather(runner.elsewhere.taken()) or ():  # for the next record
        runner.recorder.add(sample, late=True)
    guards = runner.update.guards
    mine = dict(metrics), is_best, [guard.state_dict() for guard in guards], runner.control.is_asked
    metrics_of_main, best_of_main, states, asked = runner.dist.broadcast(mine)
    if asked:
        runner.control.hasten()
    if not runner.dist.is_main:
        for guard, state in zip(guards, states, strict=True):
            guard.load_state_dict(state)
    return metrics_of_main, best_of_main
