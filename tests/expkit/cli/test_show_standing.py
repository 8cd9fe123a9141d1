"""`expkit show RUN`: how a run stands or ended, and what to type next."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import pytest

from expkit.cli.main import main
from expkit.cli.show import describe
from expkit.ending import Ending
from expkit.experiment import RunDir
from tests.expkit.cli.test_show import Show, commands, run, show, update, write

__all__ = ["run", "show"]  # fixtures


def test_a_living_run_says_when_it_ends(run: Path, show: Show, capsys: pytest.CaptureFixture[str]) -> None:
    forecast = {"end_time": time.time() + 9000, "requeues": 2, "steps_per_sec": 3.0}
    update(run / "status.json", forecast=forecast)
    assert main(["show", str(run)]) == 0
    assert "\nforecast    ends in 2.5 h, without the time between jobs, at 2" in capsys.readouterr().out
    content = show()["forecast"]
    assert content.pop("text").endswith("; 2 requeues needed")
    assert content == forecast
    update(run / "status.json", state="finished")
    assert "forecast" not in show()


def test_a_run_that_died_says_why_and_what_was_noticed_last(
    run: Path, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "logs").mkdir()
    event = {"step": 25, "kind": "loss_spike", "severity": "WARNING", "message": "train_loss rose"}
    write(run / "logs" / "events.jsonl", event)
    update(run / "status.json", state="failed", error="RuntimeError: no")
    content = show()
    text = "failed (RuntimeError: no), at step 30"
    assert content["ended"] == {"state": "failed", "why": "RuntimeError: no", "certain": True, "text": text}
    assert content["event"] == {**event, "text": "loss_spike at step 25: train_loss rose"}
    assert main(["show", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == [f"ended       {text}", "event       loss_spike at step 25: train_loss rose"]
    update(run / "status.json", state="finished")
    assert not {"ended", "event"} & show().keys()


def test_a_run_whose_process_is_there_but_says_nothing_is_silent(
    run: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expkit.cli.show.ending", lambda _: Ending("silent", "process 5 is there", False, 30))
    content = show()
    assert content["state"].startswith("silent (said running, last heartbeat ")
    assert content["next"] == f"expkit show {run} --json", "it holds the lock: a resume would be refused"


def test_a_run_whose_heartbeat_stopped_is_dead(run: Path, show: Show) -> None:
    update(run / "status.json", heartbeat_time=time.time() - 100)
    content = show()
    assert content["state"].startswith("dead (said running, last heartbeat 100 s ago")
    assert content["next"] == f"python -m train resume={run}"


@pytest.mark.parametrize("state", ["finished", "failed", "preempted", "interrupted"])
def test_a_run_that_ended_can_be_gone_on_with(run: Path, show: Show, state: str) -> None:
    update(run / "status.json", state=state, heartbeat_time=0)
    content = show()
    assert content["state"] == state
    assert content["next"].startswith(f"python -m train resume={run}")


def test_what_to_type_next_is_what_works(run: Path, show: Show) -> None:
    config = json.loads((run / "config.json").read_text())
    command = ["python", "-m", "train", "--config-dir", "my conf", "--config-dir=more", "task=mine"]
    write(run / "config.json", {**config, "command": command})
    update(run / "status.json", state="interrupted")
    again = f"python -m train --config-dir 'my conf' --config-dir more resume={run}"
    assert show()["next"] == again
    update(run / "status.json", state="finished", step=100)
    for trainer, more in (
        ({"max_steps": 300, "max_epochs": None}, " trainer.max_steps=600"),
        ({"max_steps": None, "max_epochs": 50}, " trainer.max_epochs=100"),
        ({"max_steps": 100, "max_epochs": 50}, " trainer.max_steps=200"),
        ({"max_steps": 300, "max_epochs": 5}, " trainer.max_epochs=10"),
        ({}, ""),
    ):
        update(run / "config.json", config={"trainer": trainer})
        assert show()["next"] == again + more
    update(run / "status.json", step=11)  # stopped by a detector: there is something left to train
    assert show()["next"] == again


def test_a_name_with_a_space_is_quoted_in_what_to_type(run: Path) -> None:
    again = str(run.rename(run.parent / "my run"))
    config = {"command": "python -m train", "config": {"trainer": {"max_steps": 100}}}
    write(Path(again) / "config.json", config)
    update(Path(again) / "status.json", state="finished", step=100, total_steps=100)
    (Path(again) / "checkpoints").mkdir()
    (Path(again) / "checkpoints" / "checkpoint_step_100.pt").touch()
    found = describe(RunDir(again))
    assert shlex.split(found["next"])[3:] == [f"resume={again}", "trainer.max_steps=200"]
    for each in (found["checkpoints"], *commands(found)):
        assert again in {word.removeprefix("resume=") for word in shlex.split(each)}


def test_the_step_of_a_dead_run_is_the_last_that_is_known(
    run: Path, show: Show, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expkit.cli.show.ending", lambda _: Ending("killed", "SIGKILL", step=72))
    update(run / "status.json", metrics={})
    assert show()["step"] == "72 of 100"
    assert main(["show", str(run)]) == 0
    assert "metrics" not in capsys.readouterr().out


def test_what_to_type_next_depends_on_how_it_stands(run: Path, show: Show) -> None:
    write(run / "config.json", {"command": "python -m train", "config": {"trainer": {"max_epochs": 5}}})
    assert commands(show()) == [f"expkit monitor {run}"]
    update(run / "status.json", state="failed", error="RuntimeError: no")
    assert commands(show())[0] == f"python -m train resume={run}"
    update(run / "status.json", state="finished", step=100, trackers={"wandb": {"failures": 2, "undelivered": 3}})
    said = commands(show())
    assert said[:2] == [f"expkit compare {run} OTHER_RUN", f"expkit report {run} -o report.html"]
    assert f"expkit replay {run} --to wandb" in said
    assert said[-1] == f"python -m train resume={run} trainer.max_epochs=10"
