"""results.json is a view of the journal: one entry per evaluation, right after a resume as well."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from expkit.experiment import create_experiment_directory
from expkit.journal import Journal, cut_journal
from expkit.record import make_record
from expkit.results import ResultsView


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return create_experiment_directory(tmp_path, "run")["root"]


def write(run: Path, *entries: tuple[int, int, dict[str, float]], details: Any = None) -> None:
    with Journal(run / "logs" / "metrics.jsonl") as journal:
        for step, epoch, metrics in entries:
            journal.write(make_record(step, metrics, epoch, details))


def results(view: ResultsView, run: Path, **arguments: Any) -> dict[str, Any]:
    given = {"best": {}, "best_checkpoint": None, "samples": [], "elapsed": 1.0}
    view.write(**{**given, **arguments})
    return json.loads((run / "results.json").read_text())


def test_there_is_one_entry_per_evaluation(run: Path) -> None:
    write(
        run,
        (5, 1, {"train_loss": 4.0, "samples": 50}),
        (10, 1, {"train_loss": 2.0, "val_loss": 3.0, "val_accuracy": 80.0, "samples": 100}),
        (20, 2, {"train_loss": 1.0, "val_loss": 1.5, "val_accuracy": 90.0, "samples": 200}),
    )
    history = results(ResultsView(run), run)["training_history"]
    assert history == [
        {"epoch": 1, "step": 10, "train": {"loss": 3.0}, "test": {"loss": 3.0, "accuracy": 80.0}, "diagnostics": {}},
        {"epoch": 2, "step": 20, "train": {"loss": 1.0}, "test": {"loss": 1.5, "accuracy": 90.0}, "diagnostics": {}},
    ]


def test_means_are_weighted_by_samples(run: Path) -> None:
    write(
        run,
        (1, 1, {"train_loss": 1.0, "samples": 300}),
        (2, 1, {"train_loss": 5.0, "val_loss": 0.0, "samples": 400}),
    )
    assert results(ResultsView(run), run)["training_history"][0]["train"] == {"loss": 2.0}


def test_what_is_no_mean_is_made_of_means(run: Path) -> None:
    """The perplexity of an epoch is that of its mean loss, not the mean of the intervals' perplexities."""
    write(
        run,
        (1, 1, {"train_loss": 1.0, "train_perplexity": math.exp(1.0), "samples": 10}),
        (2, 1, {"train_loss": 3.0, "train_perplexity": math.exp(3.0), "val_loss": 0.0, "samples": 20}),
    )
    view = ResultsView(run, summarize=lambda means: {**means, "perplexity": math.exp(means["loss"])})
    assert results(view, run)["training_history"][0]["train"] == {"loss": 2.0, "perplexity": math.exp(2.0)}


def test_final_metrics_are_those_of_the_contract(run: Path) -> None:
    write(
        run,
        (10, 1, {"val_loss": 4.7, "val_perplexity": 110.0, "tokens_per_sec": 1000.0, "train_loss": 1.0}),
        (20, 2, {"val_loss": 4.5, "val_perplexity": 90.0, "tokens_per_sec": 2000.0}),
    )
    content = results(
        ResultsView(run), run, best={"best_val_loss": 4.3, "best_step": 8500},
        best_checkpoint="checkpoints/checkpoint_step_8500.pt", samples=["In the beginning"], elapsed=3600.0,
    )  # fmt: skip
    assert content["final_metrics"] == {
        "val_loss": 4.5,
        "val_perplexity": 90.0,
        "perplexity": 90.0,
        "best_val_loss": 4.3,
        "best_step": 8500,
        "total_time_seconds": 3600.0,
        "tokens_per_second": 1500.0,
    }
    assert content["best_checkpoint"] == "checkpoints/checkpoint_step_8500.pt"
    assert content["generation_samples"] == ["In the beginning"]


def test_diagnostics_come_with_their_evaluation_and_without_their_prefix(run: Path) -> None:
    write(
        run,
        (10, 1, {"blob/encoder_std": 0.1, "val_loss": 3.0, "svd/r": 5}),
        details={"blob/cluster_centers": [[0.0, 1.0]]},
    )
    write(run, (20, 2, {"val_loss": 2.0}))
    first, second = results(ResultsView(run, diagnostics=["blob"]), run)["training_history"]
    assert first["diagnostics"] == {"encoder_std": 0.1, "cluster_centers": [[0.0, 1.0]]}
    assert second["diagnostics"] == {}


def test_diagnostics_whose_short_names_collide_keep_their_prefix(run: Path) -> None:
    write(run, (10, 1, {"blob/std": 0.1, "other/std": 0.2, "val_loss": 3.0}))
    history = results(ResultsView(run, diagnostics=["blob", "other"]), run)["training_history"]
    assert history[0]["diagnostics"] == {"std": 0.1, "other/std": 0.2}


def test_a_short_name_belongs_to_one_diagnostic_whenever_each_was_measured(run: Path) -> None:
    write(run, (10, 1, {"other/std": 0.2}), (20, 1, {"blob/std": 0.1, "other": 7}), (30, 1, {"other/std": 0.3}))
    write(run, (40, 1, {"val_loss": 3.0}))
    history = results(ResultsView(run, diagnostics=["other", "blob"]), run)["training_history"]
    assert history[0]["diagnostics"] == {"std": 0.1, "other/std": 0.3, "other": 7}


def test_nan_is_null_and_old_journals_with_null_are_read(run: Path) -> None:
    write(run, (10, 1, {"train_loss": math.nan, "val_loss": math.nan}))
    with (run / "logs" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "train_loss": null, "val_loss": 1.0}\n')
    first, second = results(ResultsView(run), run)["training_history"]
    assert (first["train"], first["test"]) == ({"loss": None}, {"loss": None})
    assert (second["train"], second["test"]) == ({}, {"loss": 1.0})


def test_a_view_reads_on_where_it_was(run: Path) -> None:
    view = ResultsView(run)
    for epoch in (1, 2, 3):
        write(run, (10 * epoch, epoch, {"val_loss": 1.0 / epoch}))
        assert len(results(view, run)["training_history"]) == epoch


@pytest.mark.parametrize("step", [0, 10, 20])
def test_after_a_cut_only_what_was_kept_counts(run: Path, step: int) -> None:
    view = ResultsView(run)
    write(run, *((10 * epoch, epoch, {"val_loss": float(epoch), "train_loss": 1.0}) for epoch in (1, 2, 3)))
    assert len(results(view, run)["training_history"]) == 3
    cut_journal(run / "logs" / "metrics.jsonl", step)
    content = results(view, run)
    assert [entry["step"] for entry in content["training_history"]] == list(range(10, step + 1, 10))
    assert content["final_metrics"].get("val_loss") == (step / 10 if step else None)


def test_it_is_due_again_after_the_interval(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    view = ResultsView(run, interval=30)
    assert view.due()
    results(view, run)
    assert not view.due()
    now = 29.9
    assert not view.due()
    now = 30.0
    assert view.due()


def test_a_run_without_evaluation_has_an_empty_history(run: Path) -> None:
    assert results(ResultsView(run), run)["training_history"] == []
    write(run, (1, 1, {"train_loss": 1.0}))
    assert results(ResultsView(run), run)["training_history"] == []


def test_a_start_that_draws_nothing_keeps_the_pictures_of_the_one_before(run: Path) -> None:
    write(run, (10, 1, {"val_loss": 3.0}), (20, 2, {"val_loss": 2.0}))
    names = [f"visualizations/made_step_{step}.png" for step in (10, 20, 30)]
    for name in names[1:]:
        (run / name).touch()
    results(ResultsView(run), run, samples=[*names, "once upon a time"])
    again = ResultsView(run)
    assert results(again, run)["generation_samples"] == names[1:2], "10 is gone, 30 is not of this run any more"
    assert results(again, run, samples=["a text"])["generation_samples"] == ["a text"]
