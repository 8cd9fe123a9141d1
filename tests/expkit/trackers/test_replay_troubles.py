"""`expkit replay` where something is in the way: one line says what, and the next replay goes on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from expkit.experiment import RunDir
from expkit.lock import run_lock
from expkit.replay import Replay
from tests.expkit.trackers import replay_stores as stores
from tests.expkit.trackers.test_recovery import Tool
from tests.expkit.trackers.test_replay import replay

__all__ = ["replay"]  # a fixture


def test_a_tracker_that_fails_goes_on_from_there_the_next_time(tmp_path: Path) -> None:
    run = RunDir(stores.make_run(tmp_path / "outputs", "fails"))
    tool = Tool(lambda call, step: call == "log" and step > 12)
    with pytest.raises(Exception, match=r"^tool: log: ConnectionError: the tool is gone, at .*; try again later"):
        Replay(run, "tool", tool).send()
    assert tool.steps == list(range(1, 13))
    tool.fails = lambda call, step: False
    again = Replay(run, "tool", tool)
    assert (again.held, again.records, again.images, again.alerts) == (12, 28, 1, 1)
    again.send()
    assert tool.steps == list(range(1, 41))
    assert tool.others == [("samples", 10), ("loss_spike", 25), ("samples", 40)]
    assert tool.summary == {"final/best_loss": 0.5}
    assert Replay(run, "tool", tool).complete


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to", "wandbb"], "there is no tracker 'wandbb': choose from tensorboard, trackio, wandb"),
        (["--to", "wandb", "wandb.mod=online"], "wandb.mod: wandb has no such setting; it has project, entity, mode"),
        (["--to", "wandb", "wandb.mode=onlin"], "tracker.wandb.mode is 'onlin'"),
        (["--to", "wandb", "wandb.mode=disabled"], "wandb.mode=disabled: it would take nothing"),
        (["--to", "wandb", "wandb.project=a/b"], "tracker.wandb.project is 'a/b', but it must not hold / \\ # ? % :"),
        (["--to", "wandb", "trackio.dir=x"], "trackio.dir is set, but --to has no trackio"),
        (["--to", "json:loads"], "json:loads is no tracker"),
        (["--to", ","], "--to names no tracker"),
        (["--to", "wandb", "mode=online"], "mode=online: settings have the form TRACKER.KEY=VALUE"),
        ([], "was trained without a tracker: name one, --to wandb say"),
    ],
)
def test_a_mistake_is_one_line(replay: Any, tmp_path: Path, arguments: list[str], says: str) -> None:
    run = stores.make_run(tmp_path / "outputs", "mistake")
    said = replay(run, *arguments, code=1)
    assert says in said and said.count("\n") == 1 and "Traceback" not in said
    assert not (run / "wandb").exists() and not (run / "logs" / "delivery.json").exists()


def test_a_run_that_goes_on_is_left_alone(replay: Any, tmp_path: Path) -> None:
    run = stores.make_run(tmp_path / "outputs", "busy")
    script = """
import sys, time
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.lock import run_lock
from expkit.record import Record
with run_lock(RunDir(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""
    import subprocess

    other = subprocess.Popen([sys.executable, "-c", script, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        said = replay(run, "--to", "tensorboard,trackio", code=1)
    finally:
        other.kill()
        other.wait()
    assert "is in use by another process" in said and said.count("\n") == 1, "once, for however many trackers"
    assert not (run / "tensorboard").exists()
    with run_lock(RunDir(run)):
        pass


def test_of_many_runs_an_odd_one_does_not_stop_the_others(replay: Any, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    runs = [stores.make_run(outputs, name) for name in ("one", "two")]
    (outputs / "notes.txt").write_text("x")
    (outputs / "multirun").mkdir()  # of a sweep
    said = replay(outputs / "multirun", outputs / "notes.txt", *runs, "--to", "tensorboard", code=1)
    assert "notes.txt is no run" in said and said.count("\n") == 1
    assert all((run / "tensorboard").exists() for run in runs)


def test_damage_is_one_line_and_a_damaged_picture_does_not_hold_up_the_rest(
    replay: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = stores.make_run(tmp_path / "outputs", "damaged", range(1, 6), project="damaged")
    database = Path(os.environ["TRACKIO_DIR"]) / "damaged.db"
    database.parent.mkdir(exist_ok=True)
    database.write_bytes(b"no database" * 500)
    (run / "visualizations" / "samples_step_10.png").write_bytes(b"")
    with (run / "logs" / "events.jsonl").open("a") as file:
        file.write('[1]\n{"kind": "a", "message": "b", "severity": "C", "step": 3}\n')
    said = replay(run, "--to", "trackio", code=1)
    assert f"{run}: trackio: what it holds cannot be read: DatabaseError" in said and said.count("\n") == 1
    assert "5 records, 1 picture, 1 alert sent to tensorboard" in replay(run, "--to", "tensorboard")
    assert "samples_step_10.png is no picture: it is left out" in caplog.messages[-1]
    assert "nothing sent" in replay(run, "--to", "tensorboard")


def test_ctrl_c_ends_a_replay_and_the_next_one_goes_on(tmp_path: Path) -> None:
    run = RunDir(stores.make_run(tmp_path / "outputs", "stopped"))

    def press(call: str, step: int) -> bool:
        if call == "log" and step == 12:
            raise KeyboardInterrupt
        return False

    tool = Tool(press)
    with pytest.raises(KeyboardInterrupt):
        Replay(run, "tool", tool).send()
    assert tool.steps == list(range(1, 12)) and tool.starts == 1
    tool.fails = lambda call, step: False
    Replay(run, "tool", tool).send()
    assert tool.steps == list(range(1, 41))
