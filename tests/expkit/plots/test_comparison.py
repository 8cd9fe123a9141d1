"""Several experiments in one picture."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import expkit.plots.panel_pictures
from expkit import ResultsParser, VisualizationManager
from tests.expkit.plots.helpers import draw_here, is_whole_png, keep_figures, said, titles

NOISE = [math.exp(-step / 100) + 0.2 * random.Random(step).random() for step in range(1, 401)]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_here(monkeypatch)


@pytest.fixture
def viz(tmp_path: Path) -> VisualizationManager:
    return VisualizationManager(tmp_path / "my_run" / "visualizations", viz_interval=100)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return keep_figures(monkeypatch, expkit.plots.panel_pictures, save=True)


def test_a_comparison_shows_losses_and_what_two_or_more_have(viz: VisualizationManager, figures: list[Figure]) -> None:
    made = viz.generate_comparison_plots(
        [
            {"name": "a", "loss_history": [3.0, 2.0, 1.0], "metrics": {"learning_rate": [0.1] * 3, "only_a": [1.0]}},
            {"name": "b", "loss_history": [2.0, 1.0], "metrics": {"learning_rate": [0.1, 0.2], "accuracy": 90.0}},
            {"name": "c", "metrics": {"accuracy": [50.0, 60.0]}},
        ]
    )
    assert made == [viz.viz_dir / "experiment_comparison.png"]
    assert is_whole_png(made[0])
    assert titles(figures[0]) == ["loss", "learning_rate", "accuracy"]
    curves = [[line.get_label() for line in axes.lines] for axes in figures[0].axes]
    assert curves == [["a", "b"], ["a", "b"], ["b", "c"]]
    colours = [line.get_color() for axes in figures[0].axes for line in axes.lines if line.get_label() == "b"]
    assert len(set(colours)) == 1, "an experiment has one colour in all panels"
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "experiments",
    [
        [{"loss_history": [1.0]}],
        [{"name": "same", "loss_history": [1.0, 2.0], "metrics": None}] * 3,
        [{"name": None, "loss_history": np.array([1.0]), "metrics": {"x": None}}, {}],
        [{"name": "_a" * 40, "loss_history": [1.0, math.nan]}, {"name": "$\\x$", "loss_history": [2.0]}],
        [{"name": f"run {number}", "loss_history": NOISE} for number in range(30)],
        iter([{"name": "a", "loss_history": [1.0]}]),
    ],
)
def test_comparisons_of_many_kinds(
    viz: VisualizationManager, caplog: pytest.LogCaptureFixture, figures: list[Figure], experiments: Any
) -> None:
    assert is_whole_png(viz.generate_comparison_plots(experiments)[0])
    assert not caplog.records
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert len(set(labels)) == len(labels) <= 25


@pytest.mark.parametrize("named", [False, True])
def test_parsed_runs_are_drawn_at_their_steps(
    viz: VisualizationManager, figures: list[Figure], named: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("Step 10: train_loss 3.0 svd/x 1.0\nStep 30: train_loss 1.0 svd/x 2.0\n")
    (tmp_path / "b.txt").write_text("Step 30: train_loss 2.0\nStep 40: train_loss nan\nStep 50: svd/x 2.0 only_b 1\n")
    runs = ResultsParser([tmp_path / "a.txt", tmp_path / "b.txt"]).parse()
    (made,) = viz.generate_comparison_plots({"left": runs[0], "right": runs[1]} if named else runs)
    assert is_whole_png(made) and not caplog.records
    assert titles(figures[0]) == ["loss", "svd/x"]
    lines = figures[0].axes[0].lines
    assert [line.get_label() for line in lines] == (["left", "right"] if named else ["a", "b"])
    assert [list(line.get_xdata()) for line in lines] == [[10, 30], [30]]


@pytest.mark.parametrize(
    ("experiments", "why"),
    [
        (1, "experiments are of type int: give dicts with name, loss_history and metrics, or what ResultsParser"),
        ("runs/a", "experiments are of type str: give dicts"),
        (["runs/a"], "experiment 1 is of type str: give dicts"),
        ({"a": {"val_loss": 1.0}}, "experiments hold 'a': give dicts"),
        ([{"metrics": [1.0]}], "metrics of experiment 1 are of type list: give a dict, name -> values"),
    ],
)
def test_what_is_no_experiment_is_one_line_that_says_what_is(
    viz: VisualizationManager, caplog: pytest.LogCaptureFixture, experiments: Any, why: str
) -> None:
    assert viz.generate_comparison_plots(experiments) == []
    (line,) = said(caplog)
    assert line.startswith(f"Failed to generate comparison plots: {why}")


@pytest.mark.parametrize("experiments", [[], [{"name": "a"}], [{"loss_history": [math.nan], "metrics": {"x": [1.0]}}]])
def test_nothing_to_compare_is_one_line_and_no_picture(
    viz: VisualizationManager, caplog: pytest.LogCaptureFixture, experiments: list[dict[str, Any]]
) -> None:
    assert viz.generate_comparison_plots(experiments) == []
    (line,) = said(caplog)
    assert line.startswith("no comparison plots: ")
    assert not list(viz.viz_dir.iterdir())
