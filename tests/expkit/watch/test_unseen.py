"""That a detector finds nothing because there is nothing to look at is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expkit.cli.main import main
from expkit.experiment import RunDir
from expkit.record import Record
from expkit.snapshots import list_snapshots
from expkit.watch.selecting import select_detectors
from expkit.watch.unseen import unseen
from tests.expkit.snapshots.making import save
from tests.expkit.watch.runs import records, watcher, write

ALL = "detectors=loss_spike,loss_spike_robust,gradient_spike,nonfinite,accuracy_drop,divergence,best_model,plateau"
ALL += ",threshold,memory,stalled,svd_switch"


def lines(path: Path, *entries: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in entries))
    return path


def test_each_detector_knows_what_it_has_not_seen() -> None:
    detectors = select_detectors([ALL], "")
    assert set(unseen(detectors)) == detectors.keys() - {"stalled"}  # which goes by the clock
    for detector in detectors.values():
        detector.observe(Record(1, 0, 0.0, {"samples": 3.0}))
    assert unseen(detectors)["accuracy_drop"] == ["val_accuracy", "accuracy"]
    assert unseen(detectors)["svd_switch"] == ["svd/..."]
    seen = {
        "loss": 1.0,
        "accuracy": 50.0,
        "gradient_norm": 1.0,
        "memory/percent": 1.0,
        "svd/a/reconstruction_error": 0.5,
    }
    for detector in detectors.values():
        detector.observe(Record(2, 0, 1.0, seen))
    assert unseen(detectors) == {}
    again = select_detectors([ALL], "")
    for name, detector in again.items():
        detector.load_state_dict(detectors[name].state_dict())
    assert unseen(again) == {}


def test_a_back_test_says_it_once_for_runs_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        write(RunDir(tmp_path / name), (Record(step, 1, 0.0, {"train_loss": 1.0}) for step in range(5)))
    write(RunDir(tmp_path / "b"), iter([Record(9, 1, 0.0, {"val_accuracy": 90.0})]))
    runs = [str(tmp_path / name) for name in "abc"]
    assert main(["watch", *runs, "--dry-run", "detectors=accuracy_drop,loss_spike"]) == 0
    assert capsys.readouterr().err == (
        "note: nothing to look at for accuracy_drop (no record has val_accuracy or accuracy); there are train_loss"
        " (in 2 of 3 runs)\n"
    )
    assert main(["watch", runs[0], "--dry-run", "--json", "detectors=accuracy_drop"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    assert told["unseen"] == {"accuracy_drop": ["val_accuracy", "accuracy"]} and told["metrics"] == ["train_loss"]


def test_a_log_that_calls_its_loss_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = lines(tmp_path / "x.jsonl", *({"step": step, "perte": 1.0} for step in range(30)))
    words = ["watch", "--log-file", str(log), "detectors=loss_spike,threshold", "detectors.threshold.metric=perte"]
    said = (
        "nothing to look at for loss_spike (no record has train_loss or loss); there are perte; --fields NAME=PATH says"
    )
    assert main([*words, "--dry-run"]) == 0
    assert f"note: {said}" in capsys.readouterr().err
    assert main([*words, "--once"]) == 0
    assert said in capsys.readouterr().out
    assert main([*words, "--once", "--fields", "loss=perte"]) == 0
    assert "nothing to look at" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--log-file", "empty.log", "--dry-run"], "empty.log: there is no record in it"),
        (["--log-file", "no.log", "--dry-run"], "--log-file no.log: there is no such file"),
        (["--status-file", "no.json", "--once"], "--status-file no.json: there is no such file"),
        (["--poll-interval", "nan"], "--interval nan: it must be more than 0 seconds"),
        (["loss_spike"], "loss_spike is no run: did you mean detectors=loss_spike?"),
        (["detector=loss_spike"], "detector=loss_spike: there is no such setting: write detectors=NAME,..."),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.log").touch()
    assert main(["watch", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}") and said.count("\n") == 1


def test_checkpoints_that_are_not_there_and_events_of_long_ago_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path / "a")
    write(run, records(1, 40, age=3600))
    words = ["watch", str(run.root), "--once", "--checkpoint-dir", str(tmp_path / "no-*"), "detectors=loss_spike"]
    assert main([*words, "detectors.loss_spike.cooldown=5"]) == 0
    said = capsys.readouterr().out
    assert f"--checkpoint-dir {tmp_path / 'no-*'}: there is no such thing yet" in said
    assert "2 new event(s)" in said and "watch_events.jsonl, 2 of them too old for alerts and snapshots" in said


def test_a_late_watcher_keeps_no_checkpoint_with_the_trouble_in_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "a")
    write(run, records(1, 60))
    save(run, 17, 30)
    words = ("detectors=loss_spike", "detectors.loss_spike.cooldown=5")
    watcher(run, words).catch_up()
    (snapshot,) = list_snapshots(run)
    assert (snapshot.step, snapshot.checkpoint_step) == (17, None)
    other = RunDir(tmp_path / "b")
    write(other, records(1, 60))
    save(other, 16, 17, 30)
    watcher(other, words).catch_up()
    assert [each.checkpoint_step for each in list_snapshots(other)] == [16]
