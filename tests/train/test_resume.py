"""A run that was stopped, however it was, goes on as if it had not been."""

from __future__ import annotations

import json
import shutil
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
from train.resume import differences
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


def test_a_finished_run_goes_on_with_more_epochs(train: Train, trained: Trained, outputs: Path) -> None:
    trained(*EXACT, "run.id=run")
    done = train("resume=run", "trainer.max_epochs=5")
    assert "resumed at step 69" in done.stderr
    assert "changed: trainer.max_epochs: 3 -> 5" in done.stderr
    results = json.loads((outputs / "run" / "results.json").read_text())
    assert [entry["epoch"] for entry in results["training_history"]] == list(range(1, 6))
    assert (outputs / "run" / ".hydra" / "resume_1" / "overrides.yaml").exists()
    assert "max_epochs: 3" in (outputs / "run" / ".hydra" / "config.yaml").read_text()


def test_a_learning_rate_typed_now_wins_over_the_restored_one(train: Train, trained: Trained, outputs: Path) -> None:
    trained(*EXACT, "run.id=run")
    train("resume=run", "trainer.max_epochs=4", "optimizer.lr=0.0005", "optimizer.weight_decay=0.1")
    rates = [entry["learning_rate"] for entry in read_journal(outputs / "run" / "logs" / "metrics.jsonl")]
    assert rates[0] == 0.003
    assert rates[-1] == 0.0005
    saved = torch.load(outputs / "run" / "checkpoints" / "checkpoint_step_92.pt", weights_only=True)
    assert saved["optimizer_state_dict"]["param_groups"][0]["weight_decay"] == 0.1


def test_a_schedule_chosen_now_goes_on_from_the_step_reached(train: Train, trained: Trained, outputs: Path) -> None:
    trained(*EXACT, "run.id=run")
    train("resume=run", "trainer.max_epochs=6", "scheduler=cosine", "scheduler.warmup=0")
    rates = [entry["learning_rate"] for entry in read_journal(outputs / "run" / "logs" / "metrics.jsonl")]
    middle = rates[rates.index(next(rate for rate in rates if rate < 0.003))]
    assert 0.0014 < middle < 0.0016, "half way through the whole run, not at its start"
    assert rates[-1] < 0.0001


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("optimizer.lr=0.05",), 0.05),
        pytest.param(("scheduler=cosine", "scheduler.warmup=0"), None, marks=pytest.mark.slow),
    ],
    ids=["lr", "scheduler"],
)
def test_what_was_typed_on_a_resume_that_was_killed_before_it_saved_counts_on_the_next(
    train: Train, outputs: Path, tmp_path: Path, typed: tuple[str, ...], expected: float | None
) -> None:
    arguments = (*EXACT, "trainer.max_epochs=60", "trainer.log_interval=1")
    train(*arguments, "trainer.max_steps=20", "run.id=stopped")
    longer = (*typed, "trainer.max_steps=30", "checkpoint.save_interval=100000", "trainer.eval_interval=100000")
    shutil.copytree(outputs / "stopped", outputs / "once")
    train("resume=once", *longer)
    start_and_signal(outputs, 25, signal.SIGKILL, "resume=stopped", *longer)
    done = train("resume=stopped", *longer)
    assert "resumed at step 20" in done.stderr
    assert "changed: " in done.stderr
    rates = [entry["learning_rate"] for entry in read_journal(outputs / "stopped" / "logs" / "metrics.jsonl")][20:]
    assert rates == [entry["learning_rate"] for entry in read_journal(outputs / "once" / "logs" / "metrics.jsonl")][20:]
    assert expected is None or set(rates) == {expected}


def test_one_of_the_checkpoints_can_be_chosen(train: Train, trained: Trained, outputs: Path) -> None:
    trained(*EXACT, "run.id=run")
    whole = journal(outputs / "run")
    done = train(f"resume={outputs / 'run' / 'checkpoints' / 'checkpoint_step_42.pt'}")
    assert "resumed at step 42" in done.stderr
    assert (outputs / "run" / "checkpoints" / "checkpoint_step_49.pt.rewound").exists(), "a resume must not find it"
    assert journal(outputs / "run") == whole


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


def test_another_batch_size_goes_on_at_the_same_place_and_says_that_exactness_is_lost(
    train: Train, outputs: Path
) -> None:
    train(*EXACT, "run.id=run", "trainer.max_steps=28")
    done = train("resume=run", "trainer.batch_size=32", "trainer.max_steps=29")
    assert "not the run that it would have been: trainer.batch_size: 64 -> 32" in done.stderr
    saved = torch.load(outputs / "run" / "checkpoints" / "checkpoint_step_29.pt", weights_only=True)
    assert saved["sampler_state"]["cursor"] == {"epoch": 1, "batch": 11, "skipped": 0}


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


def test_what_a_resume_changed_stays_changed_in_the_next_one(train: Train, outputs: Path) -> None:
    train(*EXACT, "run.id=run", "trainer.max_epochs=2")
    train("resume=run", "trainer.max_epochs=4", "trainer.max_steps=60")
    done = train("resume=run", "trainer.max_steps=null")
    assert "resumed at step 60" in done.stderr
    config = json.loads((outputs / "run" / "config.json").read_text())
    assert [each["step"] for each in config["resumes"]] == [46, 60]
    assert config["resumes"][0]["changed"] == ["trainer.max_epochs: 2 -> 4", "trainer.max_steps: None -> 60"]
    status = json.loads((outputs / "run" / "status.json").read_text())
    assert (status["epoch"], status["restarts"]) == (4, 2)


def test_other_trackers_are_a_change_of_one_line() -> None:
    mine, wandb = {"_target_": "mine.Csv", "path": "a"}, {"_target_": "W", "mode": "offline"}
    before = {"tracker": {}, "plots": {"samples": {"dpi": 100}}, "optimizer": {"lr": 1}}
    after = {"tracker": {"wandb": wandb, "mine": mine}, "plots": {"samples": {"dpi": 80}}, "optimizer": {"lr": 2}}
    assert differences(before, after) == [
        "optimizer.lr: 1 -> 2",
        "plots.samples.dpi: 100 -> 80",
        "tracker: [] -> [wandb,mine]",
    ]
    assert differences(after, after | {"tracker": {"mine": mine | {"path": "b"}}}) == [
        "tracker.mine.path: a -> b",
        "tracker: [wandb,mine] -> [mine]",
    ]


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


def test_trackers_get_another_run_when_the_course_is_left(train: Train, outputs: Path) -> None:
    def delivered() -> dict[str, dict[str, int]]:
        return json.loads((outputs / "run" / "logs" / "delivery.json").read_text())

    train(*EXACT, "tracker=trackio", "run.id=run")
    train("resume=run", "trainer.max_epochs=4")
    assert list(delivered()) == ["run"], "an exact resume goes on in the same run"
    train(f"resume={outputs / 'run' / 'checkpoints' / 'checkpoint_step_42.pt'}", "optimizer.lr=0.001")
    whole = {"trackio": {"step": 92, "finished": True}}
    assert delivered() == {"run": whole, "run-r1": whole}


def test_a_changed_learning_rate_meets_any_schedule(train: Train, outputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "scheduler"
    folder.mkdir(parents=True)
    (folder / "exponential.yaml").write_text(
        "_target_: torch.optim.lr_scheduler.ExponentialLR\n_partial_: true\ngamma: 0.99\n"
    )
    where = ("--config-dir", str(folder.parent))
    train(*where, *EXACT, "scheduler=exponential", "run.id=run", "trainer.max_epochs=1")
    train(*where, "resume=run", "trainer.max_epochs=2", "optimizer.lr=0.001")
    entries = read_journal(outputs / "run" / "logs" / "metrics.jsonl")
    rates = {entry["step"]: entry["learning_rate"] for entry in entries}
    assert rates[23] == pytest.approx(0.003 * 0.99**22)
    assert rates[46] == pytest.approx(0.001 * 0.99**45)


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
