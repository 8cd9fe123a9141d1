"""When a checkpoint is due."""

from __future__ import annotations

import pytest

from expkit.checkpoints import (
    AnyOf,
    AtEnd,
    AtSteps,
    CheckpointManager,
    EveryEpochs,
    EveryMinutes,
    EverySteps,
    Moment,
    OnBest,
    OnPreemption,
    SavePolicy,
    save_when,
)
from expkit.errors import UserError
from expkit.schedule import Progress


def steps(policy: SavePolicy, until: int = 12) -> list[int]:
    """The steps of a run, in epochs of 3 steps and 20 s a step, at which `policy` wants a checkpoint."""
    moments = [
        Moment(
            Progress(
                step,
                step // 3,
                epoch_ended=step % 3 == 0,
                elapsed=20.0 * step,
                previous_elapsed=20.0 * max(0, step - 1),
            )
        )
        for step in range(1, until + 1)
    ]
    return [moment.progress.step for moment in moments if policy.reason(moment)]


@pytest.mark.parametrize(
    ("policy", "due"),
    [
        (EverySteps(5), [5, 10]),
        (EveryEpochs(), [3, 6, 9, 12]),
        (EveryEpochs(2), [6, 12]),
        (EveryMinutes(1.5), [5, 9]),
        (AtSteps([1, 7, 100]), [1, 7]),
        (AnyOf([EverySteps(5), AtSteps([5, 6])]), [5, 6, 10]),
        (OnBest(), []),
        (OnPreemption(), []),
        (AtEnd(), []),
        (save_when(), []),
        (save_when(every_minutes=1.5, every_epochs=2, at_steps=[1]), [1, 5, 6, 9, 12]),
        (save_when(also=[EverySteps(5)]), [5, 10]),
    ],
    ids=str,
)
def test_what_is_due_by_the_clock_and_the_counters(policy, due):
    assert steps(policy) == due


@pytest.mark.parametrize(
    ("moment", "policy", "reason"),
    [
        ({"is_best": True}, OnBest(), "best"),
        ({"stopping": True}, OnPreemption(), "stopped"),
        ({"ended": True}, AtEnd(), "end"),
    ],
)
def test_what_is_due_by_what_happens(moment, policy, reason):
    progress = Progress(step=4)
    assert policy.reason(Moment(progress)) is None
    assert policy.reason(Moment(progress, **moment)) == reason
    assert save_when().reason(Moment(progress, **moment)) == reason
    off = save_when(on_best=False, on_preemption=False, at_end=False)
    assert off.reason(Moment(progress, **moment)) is None


def test_all_reasons_are_said(tmp_path):
    manager = CheckpointManager(tmp_path, save_interval=2)
    moment = Moment(Progress(step=4), is_best=True, asked=True)
    assert manager.due(moment) == "every 2 steps, best"
    assert manager.due(Moment(Progress(step=3), asked=True)) == "asked for"
    assert manager.due(Moment(Progress(step=3))) is None
    manager.save_interval = None
    assert manager.due(Moment(Progress(step=4))) is None
    assert not manager.should_checkpoint(4)


def test_a_policy_of_ones_own():
    class OnLowLoss(SavePolicy):
        def reason(self, moment: Moment) -> str | None:
            return "low" if moment.metrics.get("train_loss", 1) < 0.1 else None

    policy = save_when(also=[OnLowLoss()])
    assert policy.reason(Moment(Progress(step=1), {"train_loss": 0.05})) == "low"
    assert policy.reason(Moment(Progress(step=1), {"train_loss": 0.5})) is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: EverySteps(0), "steps=0 can never be due: it must be more than 0"),
        (lambda: EveryMinutes(-1), "minutes=-1"),
        (lambda: EveryEpochs(True), "epochs=True"),
        (lambda: AtSteps([5, 0]), "a listed step=0"),
        (lambda: save_when(every_minutes=0), "every_minutes=0"),
        (lambda: save_when(also=[3]), "also: a int is no policy: it has no method reason"),
    ],
)
def test_what_can_never_be_due_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()
