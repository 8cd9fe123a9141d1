"""`expkit show RUN`: one run, from its files alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expkit.cli.main import main
from expkit.ending import Ending

Show = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory as training leaves it."""
    folder = tmp_path / "outputs" / "toy_20260101_120000_abcd"
    folder.mkdir(parents=True)
    write(
        folder / "config.json",
        {"timestamp": "2026-01-01T12:00:00+00:00", "command": ["python", "-m", "train"], "git_hash": "abc123"},
    )
    write(
        folder / "status.json",
        {
            "state": "running",
            "step": 30,
            "total_steps": 100,
            "heartbeat_time": time.time(),
            "metrics": {"train_loss": 0.123456789, "val_loss": None, "gpu/0/power_w": 100.0},
        },
    )
    return folder


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def update(path: Path, **fields: Any) -> None:
    write(path, {**json.loads(path.read_text()), **fields})


@pytest.fixture
def show(run: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    """What `expkit show RUN --json` prints."""

    def shown(*arguments: str) -> dict[str, Any]:
        assert main(["show", *(arguments or [str(run)]), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return shown


def test_text_is_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop(3).startswith("started     2026-01-01T12:00:00+00:00; for ")
    assert lines == [
        f"run         {run}",
        "state       running",
        "step        30 of 100",
        "command     python -m train",
        "git         abc123",
        "metrics     train_loss 0.12346  val_loss not finite",
        f"next        expkit monitor {run}  # its curves, while it runs",
    ]


def test_what_detectors_have_done_to_it_is_said(run: Path, show: Show) -> None:
    assert not {"rewound", "stopped_by"} & show().keys()
    config, status = (json.loads((run / name).read_text()) for name in ("config.json", "status.json"))
    rewind = {"step": 69, "seen": 180, "why": "train_loss is nan"}
    write(run / "config.json", {**config, "resumes": [{"step": 69, "rewind": rewind}, {"step": 100}]})
    write(run / "status.json", {**status, "stopped_by": "detectors.divergence at step 207: rising"})
    shown = show()
    assert shown["rewound"] == "step 180 -> 69 (train_loss is nan)"
    assert shown["stopped_by"] == "detectors.divergence at step 207: rising"


def test_json_is_for_programs(run: Path, show: Show) -> None:
    content = show()
    assert content["run"] == str(run)
    assert content["state"] == "running"
    assert content["metrics"] == {"train_loss": 0.123456789, "val_loss": None}


def test_where_there_are_checkpoints_it_says_how_to_look_at_them(run: Path, show: Show) -> None:
    (run / "checkpoints").mkdir()
    assert "checkpoints" not in show()
    (run / "checkpoints" / "checkpoint_step_5.pt").touch()
    assert show()["checkpoints"] == f"expkit checkpoints {run}"


def test_without_a_name_the_newest_run_is_shown(run: Path, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    older = run.parent / "older"
    older.mkdir()
    write(older / "config.json", {})
    os.utime(older / "config.json", (1, 1))
    monkeypatch.chdir(run.parent.parent)
    assert show("--json")["run"] == str(Path("outputs") / run.name)


def test_a_run_without_status_or_of_an_older_version_still_opens(run: Path, show: Show) -> None:
    write(run / "config.json", {"command": "python train.py", "config": {}})
    write(run / "status.json", {"step": 5, "metrics": None, "heartbeat_time": None})
    assert (show()["state"], show()["command"]) == ("unknown", "python train.py")
    (run / "status.json").unlink()
    write(run / "config.json", {})
    assert show()["state"] == "unknown"


@pytest.mark.parametrize("name", ["nowhere", "empty", "file.txt"])
def test_what_is_no_run_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    assert main(["show", str(tmp_path / name)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {tmp_path / name} is no run: name a run directory, or the id of a run in ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("name", ["latest", "toy_20260101_120000_abcd"])
def test_a_run_can_be_named_by_its_id_or_as_the_latest(
    run: Path, show: Show, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(run.parents[1])
    assert show(name)["step"] == "30 of 100"


def test_a_run_that_is_not_the_runners_is_told_from_its_journal(run: Path, show: Show) -> None:
    (run / "status.json").unlink()
    (run / "logs").mkdir()
    (run / "logs" / "metrics.jsonl").write_text('{"step":7,"time":1.0,"loss":0.5}\n')
    shown = show()
    assert (shown["state"], shown["step"], shown["metrics"]) == ("unknown", "7 of ?", {"loss": 0.5})
    assert "resume" not in shown["next"]


def test_a_broken_file_is_one_line_and_exit_code_1(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "status.json").write_text("{")
    assert main(["show", str(run)]) == 1
    assert "status.json is not valid JSON" in capsys.readouterr().err


def test_without_any_run_it_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show"]) == 1
    assert "start one with python -m train" in capsys.readouterr().err


def test_a_terminal_obeys_nothing_that_a_run_holds(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((run / "config.json").read_text())
    typed = ["python", "-m", "train", "run.notes=\x1b[31mred\x1b]0;x\x07"]
    write(run / "config.json", {**config, "command": typed, "resumes": [1, {"rewind": 2}]})
    assert main(["show", str(run)]) == 0
    said = capsys.readouterr().out
    assert "red" in said and not set("\x1b\x07") & set(said)


def test_a_folder_of_runs_is_told_from_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run.parent)]) == 1
    said = capsys.readouterr().err
    assert said == f"error: {run.parent} is no run: it is a folder of runs, name one: {run} is the newest\n"


def commands(shown: dict[str, Any]) -> list[str]:
    return [each["command"] for each in shown["commands"]]


def test_what_trackers_lack_is_said(run: Path, show: Show, capsys: pytest.CaptureFixture[str]) -> None:
    trouble = {"failures": 2, "undelivered": 3, "last_error": "log: ConnectionResetError"}
    update(run / "status.json", state="finished", trackers={"wandb": trouble, "trackio": {"undelivered": 0}})
    assert show()["undelivered"] == {"wandb": trouble}
    assert main(["show", str(run)]) == 0
    assert "\nundelivered wandb lacks 3 items (log: ConnectionResetError)\n" in capsys.readouterr().out


def test_how_it_went(run: Path, show: Show, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "logs").mkdir()
    (run / "visualizations").mkdir()
    for step in (5, 9):
        (run / "visualizations" / f"frequencies_step_{step}.png").touch()
        os.utime(run / "visualizations" / f"frequencies_step_{step}.png", (step, step))
    kinds = ["loss_spike", "loss_spike", "plateau", "loss_spike"]
    events = [
        {"step": step, "kind": kind, "severity": "WARNING", "message": f"m{step}"} for step, kind in enumerate(kinds)
    ]
    (run / "logs" / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    final = {"val_loss": 0.5, "best_val_loss": 0.25, "best_val_psnr": 20.0, "best_step": 20, "samples_per_second": 9.0}
    write(run / "results.json", {"final_metrics": final, "best_checkpoint": "checkpoints/checkpoint_step_20.pt"})
    stops = [
        {"step": step, "time": "2026-01-01", "state": "preempted", "why": f"SIGTERM {step}"} for step in range(1, 4)
    ]
    stops.append({"step": 4, "time": "2026-01-01", "state": "finished", "why": ""})
    update(run / "status.json", state="finished", restarts=2, ended_before=[*stops, "nonsense"])
    parent = {"run": "before", "snapshot": "anomaly_1", "step": 7}
    model, data = (
        {"class": "Net", "parameters": 1234567},
        {"name": "Digits", "train": {"samples": 1000}, "path": "a.txt"},
    )
    update(run / "config.json", parent=parent, model=model, dataset=data, git_dirty=True, resumes=[{"step": 3}])
    shown = show()
    assert shown["best"] == {
        "metric": "val_loss", "value": 0.25, "step": 20, "checkpoint": "checkpoints/checkpoint_step_20.pt"
    }  # fmt: skip
    assert shown["events"]["kinds"] == {"loss_spike": 3, "plateau": 1} and shown["standing"] == "finished"
    assert main(["show", str(run)]) == 0
    said = capsys.readouterr().out
    for line in (
        "parent      before, anomaly_1, step 7",
        "before      the last 3 of 4 times that it stopped:",
        "            stopped at step 4, 2026-01-01: finished",
        "git         abc123, with changes that were not committed",
        "model       Net, 1,234,567 parameters",
        "data        Digits, 1,000 training samples, path a.txt",
        "best        val_loss 0.25 at step 20, checkpoints/checkpoint_step_20.pt",
        "events      4: 3 loss_spike, 1 plateau",
        "            step 3  warning  loss_spike: m3",
        f"pictures    {run}/visualizations/frequencies_step_9.png",
    ):
        assert f"\n{line}\n" in said
    assert "; started again 2 times, at step 3\n" in said and "m0" not in said and "SIGTERM 1" not in said


def test_a_run_of_ones_own_loop_needs_its_journal_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine" / "logs").mkdir(parents=True)
    lines = [{"step": step, "time": 1.0 + step, "val_loss": abs(step - 2) + 0.5} for step in range(1, 5)]
    (tmp_path / "mine" / "logs" / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert main(["show", str(tmp_path / "mine"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["step"], shown["metrics"], shown["best"]["value"], shown["best"]["step"]) == (
        "4 of ?", {"val_loss": 2.5}, 0.5, 2,
    )  # fmt: skip
    assert not any("resume" in each for each in commands(shown)), "it is no run that python -m train could go on with"


def test_the_step_and_the_metrics_are_the_journals_where_it_is_ahead(run: Path, show: Show) -> None:
    (run / "logs").mkdir()
    (run / "logs" / "metrics.jsonl").write_text('{"step":31,"time":1.0,"train_loss":0.5}\n{"step":3')
    shown = show()
    assert (shown["step"], shown["metrics"]["train_loss"]) == ("31 of 100", 0.5)


def test_what_results_have_of_a_run_that_was_killed_is_not_final(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(run / "results.json", {"final_metrics": {"total_time_seconds": 1.5}})
    monkeypatch.setattr("expkit.cli.show.ending", lambda _: Ending("killed", "SIGKILL", step=72))
    assert main(["show", str(run)]) == 0
    assert "total_time_seconds" not in capsys.readouterr().out
    monkeypatch.undo()
    update(run / "status.json", state="finished")
    assert main(["show", str(run)]) == 0
    assert "\nfinal       total_time_seconds 1.5\n" in capsys.readouterr().out


def test_the_best_of_another_metric_than_the_checkpoints_has_not_their_step(run: Path, show: Show) -> None:
    write(
        run / "results.json", {"final_metrics": {"best_val_accuracy": 10.0, "best_step": 7}, "best_checkpoint": "c.pt"}
    )
    update(run / "status.json", state="finished")
    update(run / "config.json", config={"checkpoint": {"monitor": "val_loss"}})
    assert show()["best"] == {"metric": "val_accuracy", "value": 10.0, "step": None, "checkpoint": None}
