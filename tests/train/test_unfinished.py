"""`resume=auto` and `resume=ask`: which run an unchanged command line goes on with, and the question about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from expkit.experiment import RunDir
from expkit.lock import run_lock
from tests.conftest import Train
from tests.train.forked import Forked
from train.unfinished import find_same, find_same_name

SMALL = (
    "task.model.hidden=8",
    "trainer.max_steps=6",
    "trainer.max_epochs=null",
    "tracker=[]",
    "plots=[]",
    "trainer.eval_interval=2",
)


def plant(
    outputs: Path, name: str, overrides: Sequence[str] = ("optimizer=sgd",), age: float = 0, **status: Any
) -> Path:
    """Make the directory of a run that was stopped; `age` in seconds."""
    run = outputs / name
    (run / "checkpoints").mkdir(parents=True)
    config = {"overrides": list(overrides), "config": {"run": {"name": "toy", "group": None}}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "status.json").write_text(json.dumps({"state": "preempted", "step": 5, "host": platform.node(), **status}))
    os.utime(run / "status.json", (time.time() - age, time.time() - age))
    return run


def chosen(outputs: Path, *overrides: str) -> str | None:
    found, _ = find_same(outputs, overrides or ("optimizer=sgd",))
    return found.run.root.name if found else None


def say_stopped(run: Path, state: str = "preempted", **more: Any) -> None:
    """Let a run that has finished say that it has not."""
    file = run / "status.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "state": state, **more}))


@pytest.mark.parametrize("state", ["preempted", "interrupted", "failed", "running", "starting"])
def test_the_newest_unfinished_run_of_the_same_settings_is_chosen(outputs: Path, state: str) -> None:
    plant(outputs, "older", age=100)
    plant(outputs, "newest", age=10, state=state)
    plant(outputs, "finished", age=5, state="finished")
    plant(outputs, "other", ["optimizer=adam"])
    assert chosen(outputs) == "newest"
    assert chosen(outputs, "optimizer=adam") == "other"
    assert chosen(outputs, "optimizer=sgd", "trainer.seed=1") is None
    assert chosen(outputs / "nowhere") is None


def test_how_it_is_resumed_where_runs_go_and_hydras_own_settings_make_no_difference(outputs: Path) -> None:
    plant(outputs, "run", ["run.outputs=old/place", "optimizer=sgd", "trainer.seed=1", "resume='outputs/run'"])
    same = ("trainer.seed=1", "resume=auto", f"run.outputs={outputs}", "optimizer=sgd", "hydra/launcher=basic")
    assert chosen(outputs, *same) == "run"


def test_secrets_are_compared_as_they_are_stored(outputs: Path) -> None:
    plant(outputs, "run", ["tracker.wandb.api_key=***"])
    assert chosen(outputs, "tracker.wandb.api_key=abc") == "run"


def test_a_run_that_is_alive_is_never_taken(outputs: Path) -> None:
    plant(outputs, "older", age=100)
    alive = plant(outputs, "alive", state="running")
    ready, release = os.pipe(), os.pipe()
    child = os.fork()  # a lock holds against other processes only
    if child == 0:
        with run_lock(RunDir(alive)):
            os.write(ready[1], b"1")
            os.read(release[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        assert chosen(outputs) == "older"
        plant(outputs, "unlike", ["a=b"])
        (outputs / "older" / "status.json").write_text('{"state": "finished"}')
        assert find_same(outputs, ["optimizer=sgd"])[1].endswith("; still running: alive")
    finally:
        os.write(release[1], b"1")
        os.waitpid(child, 0)
    assert chosen(outputs) == "alive"


def test_damaged_neighbours_do_no_harm(outputs: Path) -> None:
    plant(outputs, "run", age=1000)
    for number, content in enumerate(["{broken", "[]", "{}", '{"config": {"run": {}}}', '{"config": {"run": 1}}']):
        (plant(outputs, f"damaged{number}") / "config.json").write_text(content)
    (plant(outputs, "status") / "status.json").write_text("\0\0\0")
    (plant(outputs, "gone") / "config.json").unlink()
    (outputs / "file.txt").touch()
    (outputs / "link").symlink_to("nowhere")
    (outputs / "empty").mkdir()
    assert chosen(outputs) == "status", "a run is none the worse for a damaged snapshot"
    (outputs / "status" / "config.json").write_bytes(b"\xff")
    assert chosen(outputs) == "run"


@pytest.mark.parametrize("file", ["status.json", "config.json"])
def test_in_a_slurm_job_only_the_jobs_own_run_is_chosen(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    mine = plant(outputs, "mine", age=100) / file
    mine.write_text(json.dumps({**json.loads(mine.read_text()), "slurm": {"job_id": "7", "restart_count": "1"}}))
    plant(outputs, "another_job", slurm={"job_id": "8"})
    plant(outputs, "by_hand")
    plant(outputs, "another_of_this_job", ["optimizer=adam"], slurm={"job_id": "7"})
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert chosen(outputs) == "mine"
    assert find_same(outputs, ["optimizer=sgd"])[1] == "the newest unfinished run of SLURM job 7 (preempted)"
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert chosen(outputs) is None


def test_a_task_of_an_array_finds_its_own_run(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (0, 1, 2):
        ids = {"job_id": f"10{task}", "array_job_id": "100", "array_task_id": str(task)}
        plant(outputs, f"task{task}", slurm=ids)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "100")
    for task in (0, 1, 2):
        monkeypatch.setenv("SLURM_JOB_ID", "555")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        assert chosen(outputs) == f"task{task}"


def test_a_run_of_the_same_name_is_found_whatever_its_settings(outputs: Path) -> None:
    plant(outputs, "older", age=10)
    plant(outputs, "newer", ["optimizer=adam"])
    found = find_same_name(outputs, "toy")
    assert found is not None
    assert found.run.root.name == "newer"
    assert find_same_name(outputs, "other") is None


def test_auto_goes_on_with_what_an_unchanged_command_line_started(train: Train, outputs: Path) -> None:
    first = train(*SMALL, "resume=auto")
    assert "resume=auto: a fresh run, as there is no unfinished run of these settings in " in first.stderr
    (run,) = outputs.iterdir()
    say_stopped(run)
    again = train(*SMALL, "resume=auto")
    assert f"resume=auto: goes on with {run}, the newest unfinished run of these settings (preempted)" in again.stderr
    assert "resumed at step 6" in again.stderr
    say_stopped(run)
    assert f"goes on with {run}" in train(*SMALL, "resume=auto").stderr, "after a resume it is the same run"
    assert list(outputs.iterdir()) == [run]
    train(*SMALL, "resume=auto")
    assert len(list(outputs.iterdir())) == 2, "one that has finished is not gone on with"


def test_a_requeued_slurm_job_goes_on_with_its_own_run_unless_told_otherwise(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    train(*SMALL)
    (run,) = outputs.iterdir()
    say_stopped(run)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = train(*SMALL)
    assert f"resume=auto: goes on with {run}, the newest unfinished run of SLURM job 7 (preempted)" in again.stderr
    assert list(outputs.iterdir()) == [run]
    say_stopped(run)
    assert "resume=auto" not in train(*SMALL, "resume=never").stderr
    assert len(list(outputs.iterdir())) == 2


def test_a_requeued_slurm_job_that_names_a_checkpoint_goes_back_to_it_only_once(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(*SMALL, "checkpoint.save_interval=2", "checkpoint.keep_last_n=9")
    (run,) = outputs.iterdir()
    older = f"resume={run / 'checkpoints' / 'checkpoint_step_4.pt'}"
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert "resumed at step 4" in train(older).stderr
    say_stopped(run, slurm={"job_id": "8"})
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = train(older)
    assert "this SLURM job has gone on from step 4 before: it takes the newest checkpoint now" in again.stderr
    assert "resumed at step 6" in again.stderr


def test_auto_knows_the_command_line_that_started_a_run_after_it_was_resumed_with_another(
    train: Train, outputs: Path
) -> None:
    train(*SMALL)
    (run,) = outputs.iterdir()
    train(f"resume={run}", "trainer.max_steps=8")
    say_stopped(run)
    assert "resumed at step 8" in train(*SMALL, "resume=auto").stderr


def test_auto_may_stand_in_a_configuration_file(train: Train, outputs: Path, tmp_path: Path) -> None:
    preset = tmp_path / "mine" / "experiment" / "preset.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("# @package _global_\nresume: auto\n")
    arguments = ("--config-dir", str(tmp_path / "mine"), "experiment=preset", *SMALL)
    train(*arguments)
    (run,) = outputs.iterdir()
    say_stopped(run)
    assert "resumed at step 6" in train(*arguments).stderr
    assert list(outputs.iterdir()) == [run]


@pytest.mark.slow
def test_the_jobs_of_a_sweep_find_their_own_runs(train: Train, outputs: Path) -> None:
    sweep = (*SMALL, "-m", "optimizer.lr=0.1,0.2", "resume=auto", "run.group=g")
    train(*sweep)
    runs = sorted(path for path in outputs.iterdir() if path.name != "multirun")
    for run in runs:
        say_stopped(run)
    done = train(*sweep)
    assert done.stderr.count("resumed at step 6") == 2
    assert sorted(path for path in outputs.iterdir() if path.name != "multirun") == runs


def test_without_a_terminal_ask_is_one_line(train: Train, outputs: Path) -> None:
    done = Forked(outputs.parent / "outputs", *SMALL, "resume=ask", terminal=False)
    assert done.end() == 1
    assert done.said == "error: resume=ask needs a terminal: use resume=auto, resume=latest or a path\n"
    assert not outputs.exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("finished")
    process = Forked(outputs, *SMALL, "run.id=stopped")
    assert process.end() == 0, process.said
    return outputs / "stopped"


@pytest.fixture
def stopped(finished: Path, outputs: Path) -> Path:
    """A run that was preempted three hours ago."""
    run = outputs / "stopped"
    shutil.copytree(finished, run, symlinks=True)
    say_stopped(run, heartbeat_time=time.time() - 3 * 3600 - 60)
    return run


def test_a_run_that_was_killed_says_so_in_the_question_and_when_it_goes_on(finished: Path, outputs: Path) -> None:
    run = outputs / "stopped"
    shutil.copytree(finished, run, symlinks=True)
    say_stopped(run, "running", pid=2**22 + 1, machine={})
    process = Forked(outputs, *SMALL, "resume=ask")
    killed = "killed (without a word: SIGKILL, or a crash in native code; "
    process.expect(f" ago: {killed}")
    process.type("\n")
    assert process.end() == 0, process.said
    assert f"it had ended before: {killed}" in process.said
    assert ", last seen at step 6\n" in process.said
    assert f"it had ended before: {killed}" in (run / "logs" / "training.log").read_text()


@pytest.mark.parametrize("answer", ["\n", "what?\nYES\n"])
def test_the_question_is_answered_with_yes(stopped: Path, answer: str) -> None:
    process = Forked(stopped.parent, *SMALL, "resume=ask")
    process.expect(f"go on with {stopped} from step 6 of 6 (stopped 3 hours ago: preempted)? [Y/n] ")
    process.type(answer)
    assert process.end() == 0, process.said
    assert "resumed at step 6" in process.said
    assert list(stopped.parent.iterdir()) == [stopped]


def test_the_question_is_answered_with_no(stopped: Path) -> None:
    process = Forked(stopped.parent, *SMALL, "resume=ask")
    process.expect("[Y/n] ")
    process.type("n\n")
    assert process.end() == 0, process.said
    assert "resumed" not in process.said
    assert len(list(stopped.parent.iterdir())) == 2


@pytest.mark.parametrize(("key", "code"), [("\x03", 130), ("\x04", 1)])
def test_ctrl_c_and_the_end_of_the_input_leave_with_nothing_made(stopped: Path, key: str, code: int) -> None:
    before = {path: path.lstat().st_mtime_ns for path in stopped.parent.rglob("*")}
    process = Forked(stopped.parent, *SMALL, "resume=ask")
    process.expect("[Y/n] ")
    process.type(key)
    assert process.end() == code
    assert process.said.rstrip("\n").endswith("so nothing was started")
    assert "Traceback" not in process.said
    assert {path: path.lstat().st_mtime_ns for path in stopped.parent.rglob("*")} == before


def test_with_nothing_to_go_on_with_it_starts_and_says_so(outputs: Path) -> None:
    outputs.parent.mkdir(exist_ok=True)
    process = Forked(outputs, *SMALL, "resume=ask", "run.name=lonely")
    assert process.end() == 0, process.said
    assert f"resume=ask: a fresh run, as no run called lonely in {outputs} is unfinished" in process.said
    assert len(list(outputs.iterdir())) == 1
