"""What ranks do together at a step, besides the update: rank 0 looks and records, and the others help it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from expkit.dist import Control, Dist
from expkit.guards.base import Guard
from expkit.recorder import Recorder
from expkit.schedule import Progress
from train.data import Batches
from train.shares import StepBatches
from train.stopwatch import Stopwatch
from train.strategies.base import Strategy

__all__ = ["Look", "agree", "before_update", "with_same_end"]

#: Asked with the model, where the run stands after the coming update, and whether it ends with it: returns what has to
#: see the gradients, or None.
Look = Callable[[nn.Module, Progress, bool], Callable[[], object] | None]


def with_same_end(batches: StepBatches, train: Batches, dist: Dist) -> StepBatches:
    """Return `batches`, the last of the epoch if they are so on any rank.

    Ranks that have loaders of their own, of unknown lengths, ask each other at every step.
    """
    if train.steps is not None or not train.is_shared_out:
        return batches
    return batches._replace(last=bool(dist.any_bits(int(batches.last))))


def before_update(
    looks: Sequence[Look], model: nn.Module, ahead: Progress, last: bool, strategy: Strategy, watch: Stopwatch
) -> Callable[[], None] | None:
    """Return what looks at the gradients of the coming update, between clipping and the optimizer's step, or None.

    Args:
        looks: who is asked; none on other ranks than 0.
        model: as prepared by `strategy`.
        ahead: where the run stands after that update.
        last: whether the run ends with it.
        strategy: how the model is spread over the ranks.
        watch: is stopped meanwhile.
    """
    found = [act for look in looks if (act := look(model, ahead, last)) is not None]
    dist = strategy.dist
    if not strategy.is_sharded:
        return watch.pausing(*found) if found and dist.is_main else None
    if not dist.broadcast(bool(found)):  # rank 0 looks, at the whole that all ranks give it
        return None

    def look_at_whole() -> None:
        with strategy.whole(model, gradients=True) as whole:
            for look in looks if dist.is_main else ():
                if (act := look(whole, ahead, last)) is not None:
                    act()

    return watch.pausing(look_at_whole)


def agree(
    metrics: Mapping[str, float],
    is_best: bool,
    dist: Dist,
    control: Control,
    guards: Sequence[Guard],
    recorder: Recorder,
    elsewhere: Recorder,
) -> tuple[dict[str, float], bool]:
    """Let all ranks have what a record of rank 0 held, whether it was the best, and what has come of it for guards.

    What rank 0 asks for because of it is done after the next step, as one process would. On the way rank 0 hears what
    other machines say of themselves.

    Args:
        metrics, is_best: of rank 0's record; of no matter elsewhere.
        dist, control: the ranks, and what they are asked for.
        guards: take rank 0's state.
        recorder, elsewhere: what rank 0 records, and what this rank's machine has said of itself.
    """
    for sample in dist.gather(elsewhere.taken()) or ():  # for the next record
        recorder.add(sample, late=True)
    mine = dict(metrics), is_best, [guard.state_dict() for guard in guards], control.is_asked
    metrics_of_main, best_of_main, states, asked = dist.broadcast(mine)
    if asked:
        control.hasten()
    if not dist.is_main:
        for guard, state in zip(guards, states, strict=True):
            guard.load_state_dict(state)
    return metrics_of_main, best_of_main
