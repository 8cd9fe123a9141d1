"""What is typed on a resume, a checkpoint or other settings, counts from then on, and what it changes is said."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from expkit.journal import read_journal
from tests.conftest import Train, Trained
from tests.train.test_resume import EXACT, journal, start_and_signal
from train.resume import differences


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


def test_another_batch_size_goes_on_at_the_same_place_and_says_that_exactness_is_lost(
    train: Train, outputs: Path
) -> None:
    train(*EXACT, "run.id=run", "trainer.max_steps=28")
    done = train("resume=run", "trainer.batch_size=32", "trainer.max_steps=29")
    assert "not the run that it would have been: trainer.batch_size: 64 -> 32" in done.stderr
    saved = torch.load(outputs / "run" / "checkpoints" / "checkpoint_step_29.pt", weights_only=True)
    assert saved["sampler_state"]["cursor"] == {"epoch": 1, "batch": 11, "skipped": 0}


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
