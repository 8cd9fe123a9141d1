"""What detectors' events set going: skip, lower_lr, stop and rewind, in real runs."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.experiment import RunDir
from expkit.journal import read_journal
from expkit.snapshots import creating, list_snapshots, verify
from tests.conftest import Train

Trouble = Callable[..., Path]


@pytest.fixture
def trouble(train: Train, outputs: Path, tmp_path: Path) -> Trouble:
    """Train on data with a NaN in epoch 4, of 10 steps each, and return the run directory."""
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "detectors").mkdir()
    (tmp_path / "conf" / "task" / "troubled.yaml").write_text(
        "_target_: tests.train.troubled.TroubledTask\nbad_epoch: 3\n"
    )
    (tmp_path / "conf" / "detectors" / "spoilt.yaml").write_text(
        "# @package detectors.spoilt\n_target_: tests.train.troubled.LossNan\nrespond: [alert]\n"
    )
    names = itertools.count()

    def run(*arguments: str, detectors: str = "spoilt") -> Path:
        name = f"run{next(names)}"
        train(
            *("--config-dir", str(tmp_path / "conf"), "task=troubled", f"detectors=[{detectors}]", f"run.id={name}"),
            *("tracker=[]", "plots=[]", "trainer.batch_size=8", "trainer.max_epochs=6", "trainer.log_interval=5"),
            *("trainer.deterministic=true", "checkpoint.save_interval=5", "optimizer.lr=0.1"),
            *("responses.rewind_back=5", "responses.rewind_clean=5", "responses.rewind_skip=0"),
            *arguments,
        )
        return outputs / name

    return run


def read(run: Path, file: str) -> Any:
    return json.loads((run / file).read_text())


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "logs" / "events.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [loss for entry in read_journal(run / "logs" / "metrics.jsonl") for loss in entry["series"]["train_loss"]]


def finite(entry: dict[str, Any]) -> bool:
    return all(map(math.isfinite, entry["series"]["train_loss"]))


def test_without_a_response_the_run_is_spoilt(trouble: Trouble) -> None:
    run = trouble()
    assert math.isnan(losses(run)[-1])
    assert [event["kind"] for event in events(run)][:1] == ["nan"]


def test_a_rewind_goes_back_and_passes_the_bad_batch_over(trouble: Trouble) -> None:
    run = trouble("detectors.spoilt.respond=[rewind]")
    status, config = read(run, "status.json"), read(run, "config.json")
    assert status["state"] == "finished"
    assert status["step"] == 60 - 1, "one batch was passed over"
    found = losses(run)
    assert all(map(math.isfinite, found))
    assert len(found) == status["step"]
    (resume,) = config["resumes"]
    rewind = resume["rewind"]
    assert rewind["step"] % 5 == 0
    assert resume["step"] == rewind["step"]
    (bad, *_) = [entry for entry in read_journal(run / "logs" / "metrics.cut-1.jsonl") if not finite(entry)]
    assert rewind["step"] < rewind["at"] == rewind["seen"] - 1
    assert bad["step"] - 5 < rewind["seen"] <= bad["step"]
    assert (rewind["batches"], rewind["kind"]) == (1, "nan")
    assert config["branch"] == 1, "what trackers hold will not come again"
    said = (run / "logs" / "training.log").read_text()
    assert f"rewind: back to step {rewind['step']}, past 1 batch after step {rewind['at']}" in said
    cut = [json.loads(line) for line in (run / "logs" / "events.cut-1.jsonl").read_text().splitlines()]
    assert [(event["kind"], event["alert"]) for event in cut] == [("nan", False), ("response", False)]
    (note,) = events(run)
    assert (note["kind"], note["detector"], note["step"], note["epoch"]) == ("response", "spoilt", rewind["step"], 3)
    assert note["message"].startswith(f"rewind, as of step {rewind['seen']}: {rewind['why']}: back to step")


@pytest.mark.parametrize("seeds", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_rewound_run_ends_with_the_loss_of_a_clean_one(trouble: Trouble, seeds: int) -> None:
    def final_loss(seed: int, bad_epoch: int) -> float:
        run = trouble(
            *(f"trainer.seed={seed}", f"task.bad_epoch={bad_epoch}", "detectors.spoilt.respond=[rewind]"),
            *("scheduler=cosine", "responses.rewind_skip=auto", "trainer.max_epochs=20", "trainer.log_interval=10"),
            *("trainer.eval_interval=100", "checkpoint.save_interval=20"),
        )
        assert len(read(run, "config.json").get("resumes", ())) == (bad_epoch >= 0)
        loss: float = read(run, "results.json")["final_metrics"]["val_loss"]
        return loss

    ratios = []
    for seed in range(seeds):
        clean = final_loss(seed, -1)
        ratios += [final_loss(seed, bad) / clean for bad in ((9, 15) if seeds > 1 else (9,))]
    assert ratios == pytest.approx([1] * len(ratios), abs=0.05)  # the order of the batches alone makes some percent
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.02)


def test_after_a_few_rewinds_the_run_stops(trouble: Trouble) -> None:
    run = trouble("detectors.spoilt.respond=[rewind]", "responses.rewind_times=0")
    status = read(run, "status.json")
    assert status["state"] == "finished"
    assert 31 <= status["step"] <= 42
    assert "no rewind: the run was rewound 0 times already" in (run / "logs" / "training.log").read_text()
    assert "resumes" not in read(run, "config.json")


def test_a_run_without_a_good_checkpoint_stops(trouble: Trouble) -> None:
    run = trouble("detectors.spoilt.respond=[rewind]", "responses.rewind_back=50")
    assert read(run, "status.json")["step"] <= 42
    assert "no checkpoint is 50 steps older" in (run / "logs" / "training.log").read_text()


def test_stop_ends_the_run_at_the_next_step_boundary(trouble: Trouble) -> None:
    run = trouble("detectors.spoilt.respond=[stop]")
    status = read(run, "status.json")
    (first, *_) = events(run)
    assert status["state"] == "finished"
    assert status["step"] <= first["step"] + 6
    assert "NaN" in status["stopped_by"]
    assert (run / "checkpoints" / f"checkpoint_step_{status['step']}.pt").exists()


@pytest.mark.parametrize("scheduler", ["constant", "cosine"])
def test_lower_lr_halves_what_follows(trouble: Trouble, scheduler: str) -> None:
    plain = trouble(f"scheduler={scheduler}")
    lowered = trouble(f"scheduler={scheduler}", "detectors.spoilt.respond=[lower_lr]", "task.bad_epoch=5")
    rates = [
        {entry["step"]: entry["learning_rate"] for entry in read_journal(run / "logs" / "metrics.jsonl")}
        for run in (plain, lowered)
    ]
    (first, *_) = [event for event in events(lowered) if event["kind"] == "response"]
    for step, rate in rates[1].items():
        factor = 1.0 if step <= first["step"] else 0.5 if step <= first["step"] + 4 else None
        if factor is not None:
            assert rate == pytest.approx(factor * rates[0][step])


@pytest.mark.parametrize("scheduler", ["constant", "cosine"])
def test_a_rewind_and_lower_lr_for_one_event_lower_it_from_the_checkpoint_on(trouble: Trouble, scheduler: str) -> None:
    plain = trouble(f"scheduler={scheduler}")
    lowered = trouble(f"scheduler={scheduler}", "detectors.spoilt.respond=[lower_lr,rewind]", "responses.lr_factor=0.3")
    rates = [
        {entry["step"]: entry["learning_rate"] for entry in read_journal(run / "logs" / "metrics.jsonl")}
        for run in (plain, lowered)
    ]
    (rewind,) = [each["rewind"] for each in read(lowered, "config.json")["resumes"]]
    for step in rates[0].keys() & rates[1].keys():
        assert rates[1][step] == pytest.approx((0.3 if step > rewind["step"] else 1.0) * rates[0][step])
    said = (lowered / "logs" / "training.log").read_text()
    assert f"after step {rewind['at']}, with 0.3 times the learning rate" in said
    assert "the learning rate is" not in said, "what the rewind would undo"


def test_a_skipped_update_leaves_everything_as_it_was(trouble: Trouble) -> None:
    run = trouble("detectors.spoilt.respond=[skip,alert]", "checkpoint.save_interval=1", "checkpoint.keep_last_n=60")
    found = losses(run)
    bad = [step for step, loss in enumerate(found, 1) if math.isnan(loss)]
    assert len(bad) == 1
    one, other = (
        torch.load(run / "checkpoints" / f"checkpoint_step_{step}.pt", weights_only=True)
        for step in (bad[0] - 1, bad[0])
    )
    for name, value in one["model_state_dict"].items():
        assert torch.equal(value, other["model_state_dict"][name])
    before, after = (each["optimizer_state_dict"]["state"] for each in (one, other))
    assert all(torch.equal(value, after[key][name]) for key, state in before.items() for name, value in state.items())
    skipped = [entry["skipped_steps"] for entry in read_journal(run / "logs" / "metrics.jsonl")]
    assert sum(skipped) == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("detectors.spoilt.respond=[rewnd]", "respond: there is no rewnd; choose from snapshot, alert"),
        ("responses.lr_factor=2", "responses.lr_factor=2: a number above 0 and below 1"),
        ("responses.rewind_skip=-1", "responses.rewind_skip=-1: a whole number, 0 or more, or auto"),
        ("+responses.factor=1", "there is no responses.factor: responses has lr_factor"),
    ],
)
def test_a_mistake_is_one_line(trouble: Trouble, typed: str, said: str, train: Train) -> None:
    with pytest.raises(AssertionError, match=said.replace("[", r"\[").replace("(", r"\(")):
        trouble(typed)


def test_a_snapshot_is_taken_with_the_checkpoint_from_before_the_trouble(trouble: Trouble) -> None:
    run = trouble("detectors.spoilt.respond=[snapshot]", "snapshots.min_steps_between_saves=1000")
    (snapshot,) = list_snapshots(RunDir(run))
    (first, *_) = events(run)
    assert (snapshot.step, snapshot.reason) == (first["step"], "nan")
    assert snapshot.checkpoint_step is not None
    assert snapshot.checkpoint_step < first["step"] + 5
    assert verify(snapshot) is None
    assert not first["alert"]


def test_a_snapshot_is_noted_when_it_is_there_and_no_checkpoint_says_so_before(
    trouble: Trouble, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, there = creating.digest, set[str]()

    def slow(path: Path) -> str:
        time.sleep(0.02)
        there.update(each.name for each in (outputs / "run0" / "checkpoints").glob("*.pt"))
        return digest(path)

    monkeypatch.setattr(creating, "digest", slow)
    run = trouble("detectors.spoilt.respond=[snapshot,alert]", "snapshots.min_steps_between_saves=1000")
    (snapshot,) = list_snapshots(RunDir(run))
    (note,) = [event for event in events(run) if event["kind"] == "response"]
    assert (note["detector"], note["severity"], note["alert"]) == ("spoilt", "INFO", False)
    assert note["message"].endswith(str(snapshot.path))
    assert "checkpoint_step_30.pt" in there
    assert f"checkpoint_step_{note['step']}.pt" not in there
    assert (run / "checkpoints" / "checkpoint_step_60.pt").exists()


def test_a_best_model_is_kept_with_its_own_weights(trouble: Trouble) -> None:
    run = trouble(
        *("task.bad_epoch=-1", "checkpoint.save_interval=1000"),
        *("detectors.best_model.cooldown=20", "snapshots.min_steps_between_saves=20"),
        detectors="best_model",
    )
    first, *_ = list_snapshots(RunDir(run))
    assert first.checkpoint_step is not None
    assert 0 <= first.checkpoint_step - first.step <= 1


SWITCHING = (
    *("task=gpt", "diagnostics=svd", "detectors=svd_switch", "detectors.svd_switch.respond=[alert,switch]"),
    *("tracker=[]", "plots=[]", "task.data.context_length=16", "task.model.d_model=32", "task.model.num_heads=2"),
    *("trainer.batch_size=8", "diagnostics.svd.interval=4", "detectors.svd_switch.cooldown=8", "task.num_samples=0"),
    *("trainer.log_interval=4", "trainer.deterministic=true", "trainer.max_steps=30", "checkpoint.save_interval=5"),
    "checkpoint.keep_last_n=20",
)


@pytest.mark.parametrize("stop", [pytest.param(8, marks=pytest.mark.slow), 15])
def test_layers_switch_and_a_resume_on_either_side_is_exact(train: Train, outputs: Path, stop: int) -> None:
    train(*SWITCHING, "run.id=whole")
    done = [event for event in events(outputs / "whole") if event["kind"] == "response"]
    assert any("is LOW-RANK from here on" in event["message"] for event in done)
    train(*SWITCHING, "run.id=cut", f"trainer.max_steps={stop}")
    train("resume=cut", "trainer.max_steps=30")
    states = [
        torch.load(outputs / name / "checkpoints" / "checkpoint_step_30.pt", weights_only=True)
        for name in ("whole", "cut")
    ]
    assert states[0]["model_state_dict"].keys() == states[1]["model_state_dict"].keys()
    for name, value in states[0]["model_state_dict"].items():
        assert torch.equal(value, states[1]["model_state_dict"][name]), name
    assert any("lora_A" in name for name in states[0]["model_state_dict"])
    assert losses(outputs / "whole") == losses(outputs / "cut")


def test_what_the_last_step_asks_for_is_left_to_a_resume(trouble: Trouble) -> None:
    run = trouble("detectors.spoilt.respond=[lower_lr]", "task.bad_epoch=5")
    kinds = [event["kind"] for event in events(run)]
    assert kinds[-1] == "nan"
    assert kinds.count("response") == kinds.count("nan") - 1
    step = read(run, "status.json")["step"]
    last = torch.load(run / "checkpoints" / f"checkpoint_step_{step}.pt", weights_only=True)
    assert [order["response"] for order in last["response_state"]["orders"]] == ["lower_lr"]


def test_a_last_step_may_be_rewound(trouble: Trouble) -> None:
    run = trouble("detectors.spoilt.respond=[rewind]", "task.bad_epoch=5", "trainer.log_interval=10")
    assert len(read(run, "config.json")["resumes"]) == 1
    assert all(map(math.isfinite, losses(run)))


def test_a_snapshot_has_the_whole_status(trouble: Trouble) -> None:
    run = trouble("detectors.spoilt.respond=[snapshot]")
    (snapshot,) = list_snapshots(RunDir(run))
    status = json.loads((snapshot.path / "training_status.json").read_text())
    assert status["state"] == "running"
    assert {"step", "epoch", "metrics", "pid", "host"} <= status.keys()
