"""When something is due."""

from __future__ import annotations

import itertools

import pytest

from expkit.schedule import Every, Progress, auto_intervals


def due_steps(every: Every, steps: int, epoch_length: int = 10) -> list[int]:
    return [
        step
        for step in range(steps + 1)
        if every.due(Progress(step=step, epoch=step // epoch_length, epoch_ended=step > 0 and step % epoch_length == 0))
    ]


def test_every_n_steps_means_n_updates_done() -> None:
    assert due_steps(Every(steps=4), 12) == [4, 8, 12]
    assert due_steps(Every(steps=1), 3) == [1, 2, 3]


def test_every_n_epochs_means_the_last_step_of_an_epoch() -> None:
    assert due_steps(Every(epochs=2), 45) == [20, 40]


def test_whichever_comes() -> None:
    assert due_steps(Every(steps=15, epochs=2), 45) == [15, 20, 30, 40, 45]


def test_nothing_is_due_without_an_interval_and_nothing_at_0() -> None:
    assert due_steps(Every(), 100) == []
    assert not Every(steps=1, epochs=1, seconds=1).due(Progress())


def test_every_n_seconds_is_due_once_in_each_interval() -> None:
    moments = [0.0, 4.0, 9.9, 10.0, 10.1, 19.0, 35.0, 36.0]
    due = [
        now
        for before, now in itertools.pairwise(moments)
        if Every(seconds=10).due(Progress(step=1, previous_elapsed=before, elapsed=now))
    ]
    assert due == [10.0, 35.0]


def test_a_resume_changes_nothing() -> None:
    every = Every(steps=7)
    assert due_steps(every, 50) == [step for step in range(51) if every.due(Progress(step=step))]


@pytest.mark.parametrize("interval", [{"steps": 0}, {"epochs": -1}, {"seconds": 0.0}])
def test_an_interval_that_can_never_be_due_is_refused(interval: dict[str, float]) -> None:
    ((unit, value),) = interval.items()
    with pytest.raises(ValueError, match=f"an interval of {value} {unit} can never be due"):
        Every(**interval)


@pytest.mark.parametrize(
    ("steps", "intervals"),
    [
        (1, (100, 10, 100)),
        (999, (100, 10, 100)),
        (1_000, (500, 10, 500)),
        (9_999, (500, 10, 500)),
        (10_000, (1_000, 50, 1_000)),
        (10**7, (1_000, 50, 1_000)),
    ],
)
def test_auto_intervals_are_the_guides(steps: int, intervals: tuple[int, int, int]) -> None:
    assert auto_intervals(steps) == dict(zip(("checkpoint", "log", "plot"), intervals, strict=True))
