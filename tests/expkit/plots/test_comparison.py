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
from expkit import VisualizationManager
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


def parsed(name: str, **metrics: list[tuple[int, float]]) -> dict[str, Any]:
    """What ResultsParser(path).parse() returns of a run."""
    last = {metric: values[-1][1] for metric, values in metrics.items() if values}
    return {"name": name, "path": f"/{name}", "state": "finished", "config": {}, "summary": last, "metrics": metrics}


@pytest.mark.parametrize("named", [False, True])
def test_parsed_runs_have_a_picture_for_each_metric_that_they_share(
    viz: VisualizationManager, figures: list[Figure], named: bool, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [
        parsed("a", **{"svd/x": [(0, 1.0), (50, 2.0)]}, train_loss=[(10, 3.0), (30, 1.0)], empty=[]),
        parsed("b", **{"svd/x": [(50, 2.0)]}, train_loss=[(40, 1.0), (20, math.nan), (30, 2.0)], only_b=[(1, 1.0)]),
    ]
    made = viz.generate_comparison_plots({"left": runs[0], "right": runs[1]} if named else runs)
    assert [path.name for path in made] == [f"experiment_comparison_{name}.png" for name in ("train_loss", "svd_x")]
    assert all(map(is_whole_png, made)) and not caplog.records
    lines = figures[0].axes[0].lines
    names = ["left", "right"] if named else ["a", "b"]
    assert [line.get_label() for line in lines[:2]] == names
    assert [list(line.get_xdata()) for line in lines[:2]] == [[10, 30], [30, 40]]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == names


def test_a_single_parsed_run_is_drawn_alone(viz: VisualizationManager, figures: list[Figure]) -> None:
    (path,) = viz.generate_comparison_plots(parsed("a", val_loss=[(1, 1.0), (2, 0.5)]))
    assert path.name == "experiment_comparison_val_loss.png"


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
