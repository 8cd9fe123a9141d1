from __future__ import annotations

import dataclasses
import logging
import os
import shlex
import subprocess
import sys
from typing import Any

import pytest

from expkit.errors import ConfigError
from expkit.trackers import Alert, Delivery, RunInfo
from expkit.trackers.wandb import WandbTracker
from expkit.trackers.wandb_service import known_settings

KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)


def send(tracker: WandbTracker, run: RunInfo, records: Any, **calls: Any) -> Delivery:
    delivery = Delivery({"wandb": tracker}, start_timeout=30)
    delivery.start(run)
    for record in records:
        delivery.log(record)
        for call in calls.get("after", {}).get(record.step, ()):
            call(delivery)
    delivery.finish(calls.get("summary"), failed=calls.get("failed", False))
    return delivery


def test_an_offline_run_holds_every_value(run, records, picture, wandb_files, same_numbers, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["train", "--token", "hunter2"])
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    sent = records([1, 2, 3, 50, 51, 52, 200])
    after = {
        50: [lambda d: d.image("samples", picture, 50), lambda d: d.image("dynamics", picture, 40)],
        51: [lambda d: d.alert(Alert("loss_spike " * 9, "loss rose by 37.8%", "CRITICAL", 51))],
        200: [lambda d: d.image("samples", picture, 200)],
    }
    delivery = send(WandbTracker(), run, sent, after=after, summary={"final/loss": 0.25}, failed=True)
    assert delivery.failures() == {}
    (file,) = wandb_files(run.dir)

    assert list(file.rows) == [*(record.step for record in sent), 201]
    for record in sent:
        row = file.rows[record.step]
        assert same_numbers(row, record)
        assert (row["epoch"], row["_timestamp"]) == (record.epoch, record.time)
    assert set(file.rows[2]) == {*sent[1].metrics, "epoch", "_step", "_timestamp", "_runtime"}
    captions = {
        step: (row["samples.caption"], row.get("dynamics.caption"))
        for step, row in file.rows.items()
        if "samples.path" in row
    }
    assert captions == {51: ("step 50", "step 40"), 201: ("step 200", None)}  # 200: no record came after it
    (about,) = file.of_type("run")
    assert (about["run_id"], about["project"], about["display_name"]) == (run.id, run.project, run.name)
    assert (about["run_group"], about["tags"], about["notes"]) == (run.group, list(run.tags), run.notes)
    assert about["config"]["update"]["optimizer"] == {"lr": 0.001, "betas": [0.9, 0.99]}
    assert about["config"]["update"]["_private"] == 1
    (alert,) = file.of_type("alert")
    assert alert["level"] == "ERROR" and alert["text"] == "loss rose by 37.8% (step 51)"
    assert len(alert["title"]) < 64
    summary = {}
    for entry in file.of_type("summary"):
        summary.update(entry["update"])
    assert summary["final/loss"] == 0.25
    assert [entry["exit_code"] for entry in file.of_type("exit")] == [1]
    media = [path for path in file.path.parent.rglob("*.png")]
    assert len(media) == 3 and all(path.read_bytes() == picture.read_bytes() for path in media)

    stored = b"".join(path.read_bytes() for path in (run.dir / "wandb").rglob("*") if path.is_file())
    assert b"hunter2" not in stored and KEY.encode() not in stored
    assert capfd.readouterr() == ("", "")


def test_names_that_wandb_keeps_for_itself(run, records, wandb_files):
    record = dataclasses.replace(records([7])[0], metrics={"_step": 99, "_runtime": -1.0}, epoch=0)
    odd = dataclasses.replace(run, id="a:b/c#d e?" + "x" * 200 + "_end", tags=("t" * 90,), name="")
    assert send(WandbTracker(), odd, [record]).failures() == {}
    (file,) = wandb_files(run.dir)
    row = file.rows[7]
    assert (row["_step"], row["metric/_step"], row["metric/_runtime"]) == (7, 99, -1.0)
    assert row["_runtime"] >= 0 and "epoch" not in row
    (about,) = file.of_type("run")
    assert len(about["run_id"]) == 128 and about["run_id"].endswith("x_end")
    assert about["display_name"] == odd.id and about["tags"] == ["t" * 64]


def test_a_resumed_offline_run_goes_on_under_the_same_id(run, records, wandb_files):
    send(WandbTracker(), run, records([10, 20, 30]))
    send(WandbTracker(), dataclasses.replace(run, resumed_step=20), records([30, 40]))
    first, second = wandb_files(run.dir)
    assert (list(first.rows), list(second.rows)) == ([10, 20, 30], [40])
    assert first.of_type("run")[0]["run_id"] == second.of_type("run")[0]["run_id"] == run.id


def test_pictures_of_a_resumed_run_that_stops_at_once_are_behind_its_last_step(run, records, picture, wandb_files):
    send(WandbTracker(), run, records([10, 20]))
    delivery = Delivery({"wandb": WandbTracker()}, start_timeout=30)
    delivery.start(dataclasses.replace(run, resumed_step=20))
    delivery.image("samples", picture, 21)
    delivery.finish()
    _, second = wandb_files(run.dir)
    assert {step: row["samples.caption"] for step, row in second.rows.items()} == {22: "step 21"}


def test_the_users_own_run_is_left_alone(run, records, tmp_path, wandb_files):
    import wandb

    settings = wandb.Settings(silent=True, x_disable_meta=True, x_disable_stats=True, console="off")
    (tmp_path / "mine").mkdir()
    mine = wandb.init(mode="offline", dir=tmp_path / "mine", project="mine", settings=settings)
    send(WandbTracker(project="other"), run, records([1, 2]))
    mine.log({"x": 1}, step=5)
    mine.finish()
    (theirs,), (ours,) = wandb_files(tmp_path / "mine"), wandb_files(run.dir)
    assert list(theirs.rows) == [5] and list(ours.rows) == [1, 2]
    assert ours.of_type("run")[0]["project"] == "other"


def test_disabled_stores_nothing(run, records, picture):
    after = {1: [lambda d: d.image("a", picture, 1), lambda d: d.alert(Alert("a", "b", "INFO", 1))]}
    tracker = WandbTracker(mode="disabled")
    assert send(tracker, run, records([1, 2]), after=after, summary={"a": 1}).failures() == {}
    assert not (run.dir / "wandb").exists()
    assert tracker.where(run) is None


def test_the_command_that_it_names_shows_the_run(run, records):
    tracker = WandbTracker()
    send(tracker, run, records([1, 2]))
    program, command, folder = shlex.split(tracker.where(run))
    assert (program, command) == ("wandb", "leet")
    arguments = [command, "inspect", "--summary", folder]  # the same without a terminal
    done = subprocess.run([sys.executable, "-m", "wandb", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert run.id in done.stdout and "train_loss" in done.stdout


def test_the_configuration_wins_over_the_environment(run, records, wandb_files, monkeypatch, caplog):
    asked = {"WANDB_MODE": "disabled", "WANDB_PROJECT": "else", "WANDB_RUN_ID": "else", "WANDB_NAME": "else"}
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING, "expkit"):
        send(WandbTracker(), run, records([1]))
    (file,) = wandb_files(run.dir)
    (about,) = file.of_type("run")
    assert (about["project"], about["run_id"], about["display_name"]) == (run.project, run.id, run.name)
    assert [entry.getMessage().split("=")[0] for entry in caplog.records] == list(asked)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "ofline"}, r"tracker\.wandb\.mode is 'ofline'.*offline, online, disabled"),
        ({"init_timeout": 0}, r"tracker\.wandb\.init_timeout is 0"),
        ({"init_timeout": "soon"}, r"tracker\.wandb\.init_timeout is 'soon'"),
    ],
)
def test_bad_values_are_refused_at_once(arguments, said):
    with pytest.raises(ConfigError, match=said):
        WandbTracker(**arguments)


def test_a_private_setting_that_has_gone_away_is_said_and_left_out(caplog):
    settings = known_settings(silent=True, x_disable_meta=True, x_gone_with_the_wind=0.5)
    assert settings.silent and settings.x_disable_meta
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "has no setting x_gone_with_the_wind any more" in said
    with pytest.raises(ValueError, match="misspelt"):
        known_settings(misspelt=True)
