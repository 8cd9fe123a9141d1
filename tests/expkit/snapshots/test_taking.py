"""When snapshots are taken: not too often of one kind, a best model a little later, and the same after a resume."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expkit import background
from expkit.errors import ConfigError
from expkit.experiment import RunDir
from expkit.record import Record
from expkit.snapshots import Retention, Snapshot, Snapshots, creating, list_snapshots, verify
from tests.expkit.snapshots.making import MOMENT, Event, best, leftovers, make_run, save


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "mine", 10)


def record(step: int, *losses: float, **metrics: float) -> Record:
    """A record a second, of the last `losses` of steps up to `step`."""
    series = {"train_loss": list(losses)} if losses else {}
    return Record(step, 1, MOMENT + step, metrics, series=series)


def steps(run: RunDir) -> list[int | None]:
    return [each.step for each in list_snapshots(run)]


def last(run: RunDir) -> Snapshot:
    return list_snapshots(run)[-1]


def test_at_least_500_steps_lie_between_two_of_one_kind(run: RunDir) -> None:
    snapshots = Snapshots(run)
    for step in range(100, 1700, 100):
        snapshots.observe(record(step, 1.0), [Event()] if step >= 200 else [])
    assert steps(run) == [200, 700, 1200]


def test_another_kind_does_not_wait(run: RunDir) -> None:
    snapshots = Snapshots(run)
    snapshots.observe(record(100), [Event()])
    snapshots.observe(record(200), [Event("divergence", "divergence_detected"), Event()])
    assert steps(run) == [100, 200]
    assert last(run).kinds == ("divergence", "loss_spike")
    assert snapshots.observe(record(650), [Event()]) is None  # that of step 200 was of this kind, too
    assert snapshots.observe(record(700), [Event()]) is not None


def test_a_best_model_is_saved_when_the_time_has_passed(run: RunDir) -> None:
    snapshots = Snapshots(run)
    snapshots.observe(record(100), [best(0.9)])
    snapshots.observe(record(200), [best(0.8)])
    snapshots.observe(record(300), [best(0.7)])
    save(run, 290, 580)
    for step in (400, 500, 590):
        assert snapshots.observe(record(step)) is None
    assert snapshots.observe(record(600)) is not None
    assert (last(run).reason, last(run).step) == ("best_model_loss_0.7", 300)
    assert last(run).checkpoint_step == 290  # the nearest: that of step 580 may be no good any more
    assert snapshots.state_dict()["pending"] is None
    for step in range(700, 2000, 100):
        assert snapshots.observe(record(step)) is None


def test_what_the_metadata_says_of_the_course_of_training(run: RunDir) -> None:
    snapshots = Snapshots(run, history=4)
    snapshots.observe(record(5, math.nan, 0.5, math.nan, -math.inf, 0.7, val_accuracy=71.0))
    snapshots.observe(record(10, 0.7, math.inf, 1.02, 0.6, 0.61), [Event()], lambda: {"state": "running"}, step=8)
    assert snapshots.run is run
    said = json.loads((last(run).path / "metadata.json").read_text())
    assert (said["step"], said["loss"], said["accuracy"]) == (8, 1.02, 71.0)
    assert (said["best_loss"], said["best_loss_step"]) == (0.5, 2)
    assert said["loss_history"] == [None, 1.02]  # of the last four those up to step 8


def test_metrics_that_are_no_series_count_too(run: RunDir) -> None:
    snapshots = Snapshots(run, loss=["val_loss"])
    snapshots.observe(record(5, 9.0, val_loss=0.5))
    snapshots.observe(record(10, 9.0, val_loss=0.6), [Event()])
    said = last(run).metadata
    assert (said["loss"], said["best_loss"], said["loss_history"]) == (0.6, 0.5, [0.5, 0.6])


def test_a_resume_goes_on_where_it_was(tmp_path: Path) -> None:
    def events(step: int) -> list[Event]:
        return [best(1 / step)] * (step % 30 == 0) + [Event()] * (step % 70 == 0)

    def go_on(snapshots: Snapshots, first: int, last: int) -> None:
        for step in range(first, last, 10):
            snapshots.observe(record(step, *(math.sin(each) for each in range(step - 9, step + 1))), events(step))

    def told(run: RunDir) -> list[dict[str, Any]]:
        left_out = ("sha256", "files", "run")
        return [
            {name: value for name, value in each.metadata.items() if name not in left_out}
            for each in list_snapshots(run)
        ]

    whole = make_run(tmp_path / "whole")
    go_on(Snapshots(whole, 100), 10, 600)
    assert len(told(whole)) > 8
    for stop in (50, 130, 250):
        run = make_run(tmp_path / f"stopped{stop}")
        first = Snapshots(run, 100)
        go_on(first, 10, stop)
        state = json.loads(json.dumps(first.state_dict()))
        second = Snapshots(run, 100)
        second.load_state_dict(state)
        assert second.state_dict() == first.state_dict()
        go_on(second, stop, 600)
        assert told(run) == told(whole)


def test_a_full_disk_is_said_once_and_tried_again_later(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots, tries = Snapshots(run, 100), []

    def full(*_: object, **__: object) -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(os, "replace", full)
        for step in range(1, 31):
            snapshots.observe(record(step, 1.0), [best(1 / step)])
    assert len(tries) == 3
    assert [each.message for each in caplog.records] == [
        f"{run.snapshots} cannot be written (No space left on device): training goes on"
    ]
    assert snapshots.trouble.summary()["failures"] == 3
    assert snapshots.observe(record(31, 1.0)) is not None  # still pending
    assert (last(run).step, last(run).reason) == (30, f"best_model_loss_{1 / 30}")
    assert snapshots.trouble.error is None


def test_old_ones_go_when_a_new_one_comes(run: RunDir) -> None:
    snapshots = Snapshots(run, 0, retention=Retention(max_size=0))
    snapshots.observe(record(1), [best(0.5)])
    snapshots.observe(record(2), [Event()])
    assert steps(run) == [1]


@pytest.mark.parametrize(
    ("setting", "value"), [("min_steps_between_saves", -1), ("min_steps_between_saves", "5"), ("history", 0)]
)
def test_a_number_that_cannot_be(run: RunDir, setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"snapshots.{setting}={value}: it must be a whole number"):
        Snapshots(run, **{setting: value})


def test_ordinary_records_cost_next_to_nothing(run: RunDir) -> None:
    snapshots = Snapshots(run)
    for step in range(10, 100_000, 10):
        assert snapshots.observe(record(step, *[1.0] * 10)) is None
    assert len(snapshots.state_dict()["history"]) == 100
    assert not run.snapshots.exists()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Snapshots take as long as this is not set."""
    opened, digest = threading.Event(), creating.digest

    def held_up(path: Path) -> str:
        assert opened.wait(30)
        return digest(path)

    monkeypatch.setattr(creating, "digest", held_up)
    yield opened
    opened.set()


def no_link(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("links", [True, False])
def test_beside_training_it_is_of_its_step_whatever_comes_after(
    run: RunDir, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    snapshots, told, status = Snapshots(run, async_save=True), [], {"state": "running", "step": 12}
    snapshots.made = lambda trigger, step, path: told.append((trigger.kind, step, path))
    assert snapshots.observe(record(12, 0.5), [Event()], lambda: status) is None
    status["step"] = 20
    run.config.write_text("{}")
    snapshots.observe(record(20, 0.1))
    save(run, 20, keep=1)  # retention
    assert [path.name for path in run.checkpoints.glob("*_1*.pt")] == []
    assert (steps(run), told) == ([], [])
    assert snapshots.state_dict()["saved"] == {"loss_spike": 12}
    gate.set()
    snapshots.wait()
    made = last(run)
    assert told == [("loss_spike", 12, made.path)]
    assert verify(made) is None
    assert (made.checkpoint_step, made.metadata["loss_history"]) == (10, [0.5])
    assert json.loads((made.path / "training_status.json").read_text())["step"] == 12
    assert made.config()["experiment_id"] == "mine"


def test_the_next_one_waits_for_it(run: RunDir, gate: threading.Event) -> None:
    snapshots = Snapshots(run, async_save=True)
    snapshots.observe(record(12), [Event()])
    threading.Timer(0.05, gate.set).start()
    snapshots.observe(record(13), [Event("divergence", "divergence_detected")])
    assert 12 in steps(run)
    snapshots.wait()
    assert steps(run) == [12, 13]


def test_whatever_goes_wrong_beside_training_is_said_once(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = Snapshots(run, 100, async_save=True)
    before = snapshots.state_dict()["saved"]

    def fail(_: Path) -> str:
        raise MemoryError("no memory")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(creating, "digest", fail)
        for step in range(1, 31):
            snapshots.observe(record(step, 1.0), [best(1 / step)])
            snapshots.wait()
    assert [each.message for each in caplog.records] == [
        f"{run.snapshots} cannot be written (MemoryError: no memory): training goes on"
    ]
    assert snapshots.trouble.summary()["failures"] == 3
    assert (snapshots.state_dict()["saved"], leftovers(run)) == (before, [])
    snapshots.observe(record(31, 1.0))  # the best is pending still
    snapshots.wait()
    assert (steps(run), snapshots.trouble.error) == ([30], None)


def test_one_that_is_abandoned_is_not_there(
    run: RunDir, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_MOMENT", 0.01)
    snapshots = Snapshots(run, async_save=True)
    snapshots.observe(record(12), [Event()])
    snapshots.abandon()
    snapshots.wait()
    assert not gate.is_set()
    assert steps(run) == []
