"""What other trainers write becomes records, once, and is gone on with where a watcher stood."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path

import pytest

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.record import Record
from expkit.wandb_data.following import FollowedFiles
from expkit.watch.sources import Source
from expkit.watch.sources.fields import Fields
from expkit.watch.sources.log_file import LogFileSource
from expkit.watch.sources.status_file import StatusFileSource
from expkit.watch.sources.trackio import TrackioSource
from expkit.watch.sources.wandb import WandbSource
from expkit.watch.targets import _USUAL
from tests.expkit.wandb_data.log_writer import history, run, write_log
from tests.expkit.watch.runs import told, watcher


def seen(source: Source, last: bool = False) -> list[tuple[int, dict[str, float]]]:
    return [(record.step, dict(record.metrics)) for record in source.read(last)]


LINES = {
    '{"step": 3, "loss": 0.5}': (3, {"loss": 0.5}),
    '{"global_step": 3, "train": {"loss": 0.5, "acc": "75%"}, "text": "x"}': (
        3,
        {"train.loss": 0.5, "train.acc": 75.0},
    ),
    '{"step": 3, "loss": Infinity, "on": true}': (3, {"loss": math.inf}),
    "2026-11-22 01:48:21,335 INFO epoch 2  step 3/300  train_loss 0.08  val_accuracy 98.9": (
        *(3, {"train_loss": 0.08, "val_accuracy": 98.9}),
    ),
    "step=3 loss: 1e-3, lr=0.1": (3, {"loss": 0.001, "lr": 0.1}),
    "{'loss': 0.5, 'grad_norm': 2, 'epoch': 0.25}": (1, {"loss": 0.5, "grad_norm": 2.0}),
    "Iteration: 3 | loss -inf": (3, {"loss": -math.inf}),
    "hello": None,
    "{": None,
}


@pytest.mark.parametrize("line", LINES)
def test_lines(tmp_path: Path, line: str) -> None:
    file = tmp_path / "train.log"
    file.write_text(line + "\n\n")
    source = LogFileSource(file, Fields())
    expected = LINES[line]
    assert seen(source) == ([expected] if expected is not None else [])
    assert source.notes() == ([f"1 line(s) of {file} could not be understood"] if expected is None else [])


def test_a_log_with_a_pattern_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "train.log"
    source = LogFileSource(file, Fields(), r"it\[(?P<step>\d+)\].*L=(?P<loss>\S+)")
    assert seen(source) == []
    file.write_text("it[10] xx L=0.5\nother\nit[20] xx L=0")
    assert seen(source) == [(10, {"loss": 0.5})]  # the last line has no end yet
    place = source.place()
    with file.open("a") as more:
        more.write(".25\nit[30] L=0.125")
    other = LogFileSource(file, Fields(), r"it\[(?P<step>\d+)\].*L=(?P<loss>\S+)")
    assert place is not None and other.go_on_from(place)
    assert seen(other, last=True) == [(20, {"loss": 0.25}), (30, {"loss": 0.125})]


@pytest.mark.parametrize("pattern", ["(", "step"])
def test_a_pattern_that_cannot_be(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UserError, match="--pattern"):
        LogFileSource(tmp_path / "x", Fields(), pattern)


@pytest.mark.parametrize("replaced", [True, False])
def test_a_status_file_is_seen_whole(tmp_path: Path, replaced: bool) -> None:
    file = tmp_path / "status.json"
    source = StatusFileSource(file, Fields("step=progress.step,loss=metrics.l"))

    def put(step: int, loss: float, end: int | None = None) -> None:
        text = json.dumps({"progress": {"step": step}, "metrics": {"l": loss}})[:end]
        target = tmp_path / "new" if replaced else file
        target.write_text(text)
        target.replace(file)

    assert seen(source) == []
    put(10, 0.5)
    assert [(step, metrics["loss"]) for step, metrics in seen(source)] == [(10, 0.5)]
    assert seen(source) == []
    put(20, 0.4, end=-5)
    assert seen(source) == []  # half of it
    put(20, 0.4)
    assert len(seen(source)) == 1
    put(5, 0.6)
    assert source.generation == 0 and len(seen(source)) == 1 and source.generation == 1


def test_a_status_file_without_what_is_named(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    file.write_text('{"step": 1, "metrics": {"loss": 2}}')
    with pytest.raises(UserError, match=r"--fields: there is no metrics\.los; did you mean metrics\.loss\?"):
        seen(StatusFileSource(file, Fields("loss=metrics.los")))
    file.write_text('{"a": 1}')
    with pytest.raises(UserError, match="no step and number among a"):
        seen(StatusFileSource(file, Fields()))
    file.write_text("[1, 2]")
    with pytest.raises(UserError, match="holds no JSON object"):
        seen(StatusFileSource(file, Fields()))
    with pytest.raises(UserError, match="write NAME=PATH"):
        Fields("loss")


def test_events_of_a_status_file_are_kept_whatever_is_killed(tmp_path: Path) -> None:
    file, run = tmp_path / "status.json", RunDir(tmp_path)
    words = ("detectors=loss_spike", "detectors.loss_spike.cooldown=0", "detectors.loss_spike.respond=[alert]")
    losses = [1.0] * 6 + [2.0, 1.0, 3.0, 1.0, 4.0]
    for step, loss in enumerate(losses):
        file.write_text(json.dumps({"step": step, "loss": loss}))
        watching = watcher(run, words, source=StatusFileSource(file, Fields()))
        watching.catch_up()
        if step != 8:
            watching.save(force=True)
        else:  # killed between event and state: the same status is read again
            watcher(run, words, source=StatusFileSource(file, Fields())).catch_up()
            watcher(run, words, source=StatusFileSource(file, Fields())).save(force=True)
    assert [event["step"] for event in told(run.logs / "watch_events.jsonl")] == [6, 8, 10]


def test_usual_names_of_other_trainers() -> None:
    record = Fields(None, _USUAL).record({"train/loss": 1.0, "eval/accuracy": 50, "train/global_step": 3, "step": 2}, 0)
    assert isinstance(record, Record) and record.step == 2
    assert record.metrics["loss"] == 1.0 and record.metrics["accuracy"] == 50
    record = Fields("loss=b", _USUAL).record({"train_loss": 1.0, "b": 2.0, "step": 1}, 0)
    assert record is not None and record.metrics == {"loss": 2.0, "b": 2.0}
    for entry in ({"Step": 1, "Loss": 2.0}, {"step": 1, "train": {"loss": 2.0}}, {"step": 1, "loss": 2.0, "LOSS": 9.0}):
        record = Fields(None, _USUAL).record(entry, 0)
        assert record is not None and record.metrics["loss"] == 2.0


def test_a_trackio_run(tmp_path: Path) -> None:
    def insert(name: str, step: int, metrics: object) -> None:
        with sqlite3.connect(tmp_path / "proj.db") as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, "
                "timestamp TEXT NOT NULL, run_name TEXT NOT NULL, step INTEGER NOT NULL, metrics TEXT NOT NULL)"
            )
            row = (f"id-{name}", "2026-01-01T00:00:00+00:00", name, step, metrics)
            database.execute("INSERT INTO metrics (run_id, timestamp, run_name, step, metrics) VALUES (?,?,?,?,?)", row)
        database.close()

    insert("a", 1, '{"loss": 0.5}')
    insert("b", 1, '{"loss": 9}')
    insert("a", 2, b'{"loss": "NaN"}')
    insert("a", 2, '{"picture": {"_type": "trackio.image"}}')
    source = TrackioSource("proj", "a", tmp_path, Fields())
    found = seen(source)
    assert found[0] == (1, {"loss": 0.5}) and math.isnan(found[1][1]["loss"]) and len(found) == 2
    place = source.place()
    insert("a", 3, '{"loss": 0.25}')
    other = TrackioSource("proj", "id-a", tmp_path, Fields())
    assert place is not None and other.go_on_from(place)
    assert seen(other) == [(3, {"loss": 0.25})] and seen(other) == []
    assert "run a" in TrackioSource("proj", None, tmp_path, Fields()).name
    with pytest.raises(UserError, match="has no run 'c'; the newest"):
        TrackioSource("proj", "c", tmp_path, Fields())
    with pytest.raises(UserError, match=r"no project 'other' in .*; there are: proj"):
        TrackioSource("other", None, tmp_path, Fields())


def test_an_offline_wandb_run(tmp_path: Path) -> None:
    folder = tmp_path / "wandb" / "offline-run-20260101_000000-abc"
    file = write_log(folder / "run-abc.wandb", [run("abc"), history(1, {"train/loss": 0.5}), history(2, {"other": 1})])
    source = WandbSource(FollowedFiles(tmp_path), "run", Fields(None, _USUAL))
    assert [(step, metrics.get("loss")) for step, metrics in seen(source)] == [(1, 0.5), (2, None)]
    assert seen(source) == []
    place = source.place()
    rows = [history(step, {"train/loss": 1 / step}) for step in range(1, 5)]
    write_log(file, [run("abc"), *rows])
    assert [step for step, _ in seen(source)] == [3, 4]
    other = WandbSource(FollowedFiles(tmp_path), "run", Fields(None, _USUAL))
    assert place is not None and other.go_on_from(place)
    assert [step for step, _ in seen(other)] == [3, 4]
    write_log(file, [run("abc"), *rows[:1]])
    assert seen(source) == [(1, {"train/loss": 1.0, "loss": 1.0})] and source.generation == 1


def test_a_status_file_that_is_no_json_is_said_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("expkit.watch.sources.status_file._UNREADABLE", 0.0)
    file = tmp_path / "status.json"
    file.write_text("hello")
    source = StatusFileSource(file, Fields())
    for _ in range(3):
        assert seen(source) == []
    assert [record.getMessage() for record in caplog.records if "holds no JSON object" in record.getMessage()] != []
    assert len(caplog.records) == 1, "once"
    with pytest.raises(UserError, match="holds no JSON object"):
        seen(source, last=True)
    file.write_text('{"step": 1, "loss": 0.5}')
    assert seen(source) == [(1, {"loss": 0.5})]


def test_a_folder_of_trackio_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nothing"):
        TrackioSource("project", None, tmp_path / "nothing", Fields())


def test_a_typo_in_a_field_is_answered_with_what_was_meant() -> None:
    fields = Fields("loss=trian_loss")
    fields.record({"step": 1, "train_loss": 0.5, "lr": 0.1}, 0)
    assert fields.notes() == ["--fields: there is no trian_loss; did you mean train_loss?"]
