"""A run that was stopped, however it was, goes on as if it had not been."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.journal import read_journal, stable
from expkit.trackers.tensorboard import TensorBoardTracker
from tests.conftest import SMALL, Train, Trained, ended, options, train_command, train_environment
from tests.train.forked import Forked
from train.tasks.denoise import DenoiseTask

EXACT = (
    "trainer.deterministic=true",
    "trainer.max_epochs=3",
    "checkpoint.save_interval=7",
    "checkpoint.keep_last_n=50",
    "trainer.log_interval=5",
    "tracker=[]",
    "diagnostics=blob",
    "plots=[]",
)


def journal(run: Path) -> list[str]:
    """The comparable entries of a run, as text: NaN equals NaN there."""
    return [repr(stable(entry)) for entry in read_journal(run / "logs" / "metrics.jsonl")]


def weights(run: Path, step: int) -> dict[str, Any]:
    path = run / "checkpoints" / f"checkpoint_step_{step}.pt"
    return torch.load(path, weights_only=True)["model_state_dict"]


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def start_and_signal(outputs: Path, step: int, number: int, *arguments: str) -> int:
    """Start a run called `stopped`, send it signal `number` once its journal has reached `step`; the exit code."""
    process = Forked(outputs, "run.id=stopped", *arguments, terminal=False)
    while not reached(outputs / "stopped", step):
        assert process.read(0.002), f"the run ended too early: {process.said}"
    process.send(number)
    return process.end()


def reached(run: Path, step: int) -> bool:
    """Whether the journal of a run has the record of `step`."""
    metrics = run / "logs" / "metrics.jsonl"
    return metrics.exists() and f'"step":{step},'.encode() in metrics.read_bytes()


@pytest.mark.slow  # the test below and those of test_resume_grid.py are always on
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [30, 69, 105])
def test_killed_in_mid_epoch_and_resumed_it_ends_bit_identical(
    train: Train, outputs: Path, tmp_path: Path, step: int, workers: int
) -> None:
    arguments = (*EXACT, f"trainer.num_workers={workers}", "trainer.max_epochs=60")
    limited = ("trainer.max_steps=138",)
    train(*arguments, *limited, "run.id=whole")
    start_and_signal(outputs, step, signal.SIGKILL, *arguments)
    assert json.loads((outputs / "stopped" / "status.json").read_text())["state"] == "running"
    train("resume=latest", *limited)
    assert same_weights(weights(outputs / "whole", 138), weights(outputs / "stopped", 138))
    assert journal(outputs / "whole") == journal(outputs / "stopped")


@pytest.mark.parametrize("task", options("task"))
def test_every_task_killed_in_mid_epoch_and_resumed_ends_bit_identical(
    train: Train, outputs: Path, tmp_path: Path, task: str
) -> None:
    arguments = (*EXACT[:-2], "plots=[]", *SMALL[task], "trainer.max_epochs=60")
    limited = ("trainer.max_steps=45",)
    train(*arguments, *limited, "run.id=whole")
    start_and_signal(outputs, 30, signal.SIGKILL, *arguments)
    train("resume=latest", *limited)
    assert same_weights(weights(outputs / "whole", 45), weights(outputs / "stopped", 45))
    assert journal(outputs / "whole") == journal(outputs / "stopped")


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (signal.SIGTERM, "preempted"),
        pytest.param(signal.SIGINT, "interrupted", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, "preempted", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_the_rest_is_as_if_it_had_not_come(
    train: Train, outputs: Path, tmp_path: Path, number: int, state: str
) -> None:
    arguments = (*EXACT, "trainer.max_epochs=60", "checkpoint.save_interval=100000")
    code = start_and_signal(outputs, 30, number, *arguments)
    assert code == 128 + number
    status = json.loads((outputs / "stopped" / "status.json").read_text())
    assert status["state"] == state
    stopped_at = status["step"]
    end = 23 * (stopped_at // 23 + 2)
    train(*arguments, f"trainer.max_steps={end}", "run.id=whole")
    train(f"resume={outputs / 'stopped'}", f"trainer.max_steps={end}")
    assert same_weights(weights(outputs / "whole", end), weights(outputs / "stopped", end))
    assert journal(outputs / "whole") == journal(outputs / "stopped")
    status = json.loads((outputs / "stopped" / "status.json").read_text())
    assert (status["state"], status["restarts"]) == ("finished", 1)
    (before,) = status["ended_before"]
    assert (before["step"], before["state"]) == (stopped_at, state) and number.name in before["why"]


def test_what_is_cut_off_is_kept_beside_the_journal(train: Train, outputs: Path, tmp_path: Path) -> None:
    start_and_signal(outputs, 30, signal.SIGKILL, *EXACT, "trainer.max_epochs=60")
    before = journal(outputs / "stopped")
    done = train(f"resume={outputs / 'stopped'}", "trainer.max_steps=46")
    aside = outputs / "stopped" / "logs" / "metrics.cut-1.jsonl"
    assert "set aside" in done.stderr
    assert [repr(stable(entry)) for entry in read_journal(aside)] == before[-len(list(read_journal(aside))) :]


def test_stopped_before_the_first_checkpoint_it_starts_again_in_the_same_place(
    train: Train, outputs: Path, tmp_path: Path
) -> None:
    arguments = (*EXACT, "trainer.max_epochs=60", "checkpoint.save_interval=100000", "trainer.eval_interval=100000")
    start_and_signal(outputs, 30, signal.SIGKILL, *arguments)
    done = train("resume=latest", "trainer.max_steps=46")
    assert "starts again from step 0" in done.stderr
    train(*arguments, "trainer.max_steps=46", "run.id=whole")
    assert journal(outputs / "whole") == journal(outputs / "stopped")


def test_a_damaged_newest_checkpoint_is_passed_over(train: Train, trained: Trained, outputs: Path) -> None:
    trained(*EXACT, "run.id=run")
    whole = journal(outputs / "run")
    newest = outputs / "run" / "checkpoints" / "checkpoint_step_69.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    done = train("resume=run")
    assert "checkpoint_step_69.pt" in done.stderr
    assert journal(outputs / "run") == whole


def test_another_model_is_refused_in_one_line(train: Train, trained: Trained, outputs: Path) -> None:
    trained(*EXACT, "run.id=run")
    done = train("resume=run", "task.model.hidden=99", check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert len(journal(outputs / "run")) > 0


def test_code_named_by_a_run_directory_is_not_executed(
    train: Train, trained: Trained, outputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(*EXACT, "run.id=run")
    file = outputs / "run" / "config.json"
    config = json.loads(file.read_text())
    config["overrides"].append(f"+task.data.extra={{_target_:pathlib.Path.touch,_args_:[{tmp_path}/touched]}}")
    file.write_text(json.dumps(config))
    done = train("resume=run", "trainer.max_epochs=4")
    assert "is not taken over" in done.stderr + caplog.text  # the latter if no run has set up its messages yet
    assert not (tmp_path / "touched").exists()


def test_auto_starts_once_and_then_finds_its_own_directory(train: Train, outputs: Path) -> None:
    arguments = (*EXACT, "trainer.max_epochs=1", "run.id=mine", "resume=auto")
    assert "resumed" not in train(*arguments).stderr
    assert "resumed at step 23" in train(*arguments).stderr
    assert [path.name for path in outputs.iterdir()] == ["mine"]


def test_an_id_that_is_taken_is_refused_without_auto(train: Train, outputs: Path) -> None:
    train("debug=smoke", "plots=[]", "run.id=mine")
    done = train("debug=smoke", "run.id=mine", check=False)
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert (outputs / "mine" / "results.json").exists()


def test_a_run_that_is_still_running_is_left_alone(train: Train, outputs: Path, tmp_path: Path) -> None:
    process = Forked(outputs, *EXACT, "trainer.max_epochs=100000", "run.id=alive", terminal=False)
    while not (outputs / "alive" / "checkpoints" / "checkpoint_step_7.pt").exists():
        assert process.read(0.005), process.said
    done = train("resume=alive", check=False)
    assert done.returncode == 1
    assert f"still running (process {process.pid}" in done.stderr
    process.send(signal.SIGTERM)
    assert process.end() == 143


def test_a_bug_in_the_task_is_in_the_log_and_the_run_has_failed(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DenoiseTask, "step", lambda *_: 1 / 0)
    monkeypatch.setattr(TensorBoardTracker, "finish", lambda *_, **__: 1 / 0)
    done = train("debug=smoke", "run.id=run", "tracker=tensorboard", check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "Traceback" in (outputs / "run" / "logs" / "training.log").read_text()
    status = json.loads((outputs / "run" / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["trackers"]["tensorboard"]["failures"] == 1, "what happened to the trackers at the end, too"


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("task.model.hidden=99", "does not fit"),
        ("optimizer=sgd", "torch.optim.Adam and cannot go on with torch.optim.SGD"),
        ("trainer.batch_size=63 trainer.grad_accumulation=2", "not divisible"),
    ],
)
def test_a_resume_that_is_refused_leaves_the_run_as_it_was(
    train: Train, trained: Trained, outputs: Path, typed: str, says: str
) -> None:
    trained(*EXACT, "run.id=run")
    before = contents(outputs / "run")
    older = sorted((outputs / "run" / "checkpoints").glob("checkpoint_step_*.pt"))[0]
    for resume in ("resume=run", f"resume={older}"):
        done = train(resume, *typed.split(), check=False)
        assert done.returncode == 1
        assert says in done.stderr
    assert contents(outputs / "run") == before


def test_of_two_resumes_at_once_one_is_refused(trained: Trained, outputs: Path) -> None:
    trained(*EXACT, "run.id=run")
    rarely = ("checkpoint.save_interval=100000", "checkpoint.save.on_best=false", "diagnostics=[]")
    both = [Forked(outputs, "resume=run", "trainer.max_epochs=150", *rarely, terminal=False) for _ in range(2)]
    while all([process.read(0.01) for process in both]):
        pass
    (refused,) = [process for process in both if not process.read(0)]
    (other,) = [process for process in both if process is not refused]
    assert refused.end() == 1
    said = refused.said
    assert "is still running" in said or "in use by another process" in said, "the other may have said nothing yet"
    entries = len(list(read_journal(outputs / "run" / "logs" / "metrics.jsonl")))
    while len(list(read_journal(outputs / "run" / "logs" / "metrics.jsonl"))) == entries:
        assert other.read(0.01), "it was not disturbed"
    other.send(signal.SIGTERM)
    assert other.end() == 143 and "Traceback" not in other.said
    steps = [entry["step"] for entry in read_journal(outputs / "run" / "logs" / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_killed_in_its_first_save_it_can_be_resumed_all_the_same(train: Train, outputs: Path, tmp_path: Path) -> None:
    arguments = (*EXACT, "trainer.max_epochs=60", "checkpoint.save_interval=100000", "trainer.eval_interval=100000")
    start_and_signal(outputs, 10, signal.SIGKILL, *arguments)
    (outputs / "stopped" / "checkpoints" / ".checkpoint_step_4.pt.99999.0.tmp").write_bytes(b"half a file")
    assert "starts again from step 0" in train("resume=stopped", "trainer.max_steps=12").stderr


def test_resume_in_a_file_is_refused(train: Train, trained: Trained, outputs: Path, tmp_path: Path) -> None:
    trained(*EXACT, "run.id=run")
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "again.yaml").write_text("# @package _global_\nresume: run\n")
    done = train("--config-dir", str(folder.parent), "experiment=again", check=False)
    assert done.returncode == 1
    assert "resume belongs on the command line" in done.stderr


@pytest.mark.slow  # tests/expkit/trackers/test_recovery.py is always on
def test_what_a_tracker_lost_in_a_kill_is_sent_again(train_process: Train, outputs: Path, tmp_path: Path) -> None:
    arguments = ("tracker=trackio", "plots=[]", "trainer.max_epochs=60", "checkpoint.save_interval=7")
    command = train_command(outputs, "run.id=stopped", *arguments)
    with ended(subprocess.Popen(command, cwd=tmp_path, env=train_environment(tmp_path), stderr=subprocess.DEVNULL)) as (
        process
    ):
        while not reached(outputs / "stopped", 110):
            assert process.poll() is None, "the run ended too early"
            time.sleep(0.002)
    train_process("resume=latest", "trainer.max_steps=138")
    database = sqlite3.connect(tmp_path / "trackio" / "expkit.db")
    stored = [step for (step,) in database.execute("select step from metrics order by id")]
    assert stored == [entry["step"] for entry in read_journal(outputs / "stopped" / "logs" / "metrics.jsonl")]


def test_a_run_with_nothing_left_to_train_says_so(train: Train, trained: Trained, outputs: Path) -> None:
    trained(*EXACT, "run.id=run")
    done = train("resume=run")
    assert "nothing is left to train: the run stands at step 69, after 3 epochs" in done.stderr
