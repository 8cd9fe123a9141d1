"""Runs of the language model: what they leave behind, and that a resume goes on with the same text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from expkit.journal import read_journal, stable
from tests.conftest import SMALL, Train
from tests.train.helpers import same

TEXT = "one two three four five six seven eight nine ten\n" * 60


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_text(TEXT)
    return path


def small(file: Path, *more: str) -> tuple[str, ...]:
    short = ("task.sample_length=20", "tracker=[]", "plots=[]")
    return (*SMALL["gpt"], *short, f"task.data.path={file}", "trainer.deterministic=true", *more)


def entries(run: Path) -> list[str]:
    return [repr(stable(entry)) for entry in read_journal(run / "logs" / "metrics.jsonl")]


def test_a_short_run_leaves_perplexities_speed_and_samples(train: Train, outputs: Path, file: Path) -> None:
    train("debug=smoke", *small(file), "run.id=run")
    results = json.loads((outputs / "run" / "results.json").read_text())
    final, last = results["final_metrics"], results["training_history"][-1]
    assert final["perplexity"] == final["val_perplexity"] == pytest.approx(math.exp(final["val_loss"]))
    assert last["train"]["perplexity"] == pytest.approx(math.exp(last["train"]["loss"]))
    assert final["best_val_perplexity"] <= final["val_perplexity"]
    assert final["tokens_per_second"] > 0
    assert [len(text) for text in results["generation_samples"]] == [21, 21, 21]
    assert next(read_journal(outputs / "run" / "logs" / "metrics.jsonl"))["gradient_norm"] > 0
    dataset = json.loads((outputs / "run" / "config.json").read_text())["dataset"]
    assert (dataset["path"], dataset["vocab_size"]) == (str(file), 16)


@pytest.mark.parametrize("options", [(), ("trainer.num_workers=2", "trainer.precision=bf16")], ids=["plain", "bf16"])
def test_stopped_and_resumed_it_ends_bit_identical(
    train: Train, outputs: Path, file: Path, options: tuple[str, ...]
) -> None:
    arguments = small(file, "task.model.dropout=0.1", "trainer.log_interval=3", "trainer.max_epochs=2", *options)
    train(*arguments, "trainer.max_steps=40", "run.id=whole")
    train(*arguments, "trainer.max_steps=27", "run.id=stopped", "checkpoint.save_interval=1000")
    train("resume=stopped", "trainer.max_steps=40")
    saved = [
        torch.load(outputs / run / "checkpoints" / "checkpoint_step_40.pt", weights_only=True)
        for run in ("whole", "stopped")
    ]
    assert same(saved[0]["model_state_dict"], saved[1]["model_state_dict"])
    assert same(saved[0]["optimizer_state_dict"], saved[1]["optimizer_state_dict"])
    assert entries(outputs / "whole")[-1] == entries(outputs / "stopped")[-1]
    samples = [json.loads((outputs / run / "results.json").read_text()) for run in ("whole", "stopped")]
    assert samples[0]["generation_samples"] == samples[1]["generation_samples"]


def test_a_resume_with_another_vocabulary_is_refused_in_one_line(train: Train, outputs: Path, file: Path) -> None:
    train("debug=smoke", *small(file), "run.id=run")
    before = entries(outputs / "run")
    file.write_text(TEXT.replace("x", "z"))
    done = train("resume=run", "trainer.max_steps=30", check=False)
    assert done.returncode == 1
    assert f"task.data.path={file} does not have the vocabulary that the run was trained on" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert entries(outputs / "run") == before


def test_a_text_that_has_changed_since_is_said_on_a_resume(train: Train, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("to be or not to be " * 100)
    short = ("debug=smoke", "plots=[]", *SMALL["gpt"], f"task.data.path={file}", "run.id=run")
    assert "not those" not in train(*short, "trainer.max_steps=2").stderr
    assert "not those" not in train("resume=run", "trainer.max_steps=3").stderr
    file.write_text("not to be or to be " * 100)
    done = train("resume=run", "trainer.max_steps=4")
    assert "the data are not those that the run was started with: other sha256" in done.stderr
