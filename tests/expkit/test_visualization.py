"""VisualizationManager draws whatever people pass."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

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
    """What is drawn; these tests look at it before it is a file."""
    return keep_figures(monkeypatch, expkit.plots.panel_pictures)


def test_pictures_are_due_at_multiples_of_the_interval_but_not_at_0(viz: VisualizationManager) -> None:
    assert [step for step in range(301) if viz.should_visualize(step)] == [100, 200, 300]


@pytest.mark.parametrize("interval", [0, -1, 1.5, "100", True, None])
def test_an_interval_that_is_no_number_of_steps_is_refused(tmp_path: Path, interval: Any) -> None:
    with pytest.raises(ValueError, match="viz_interval must be a whole number of at least 1, not "):
        VisualizationManager(tmp_path, interval)


def test_an_unknown_theme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="theme=blue: choose dark, light or print"):
        VisualizationManager(tmp_path, theme="blue")  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"viz_dir=.*file cannot be made: File exists; choose another folder"):
        VisualizationManager(tmp_path / "file")


def test_a_picture_has_the_name_of_its_step(viz: VisualizationManager) -> None:
    (path,) = viz.generate_training_plots(step=100, loss_history=NOISE[:100], metrics={})
    assert path == viz.viz_dir / "training_dynamics_step_100.png"
    assert is_whole_png(path)
    assert list(viz.viz_dir.iterdir()) == [path]


def test_a_folder_that_was_removed_is_made_again(viz: VisualizationManager) -> None:
    viz.viz_dir.rmdir()
    assert viz.generate_training_plots(1, [1.0], {})[0].exists()


@pytest.mark.parametrize(
    "losses",
    [
        [1.0],
        [torch.tensor(2.0, requires_grad=True), torch.tensor(1.0)],
        torch.tensor([2.0, 1.0]),
        [2.0, math.nan, math.inf, 1.0],
        [None, 1.0],
        [0.0],
    ],
    ids=str,
)
def test_losses_of_many_kinds(viz: VisualizationManager, losses: Any, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = viz.generate_training_plots(7, losses, {})
    assert is_whole_png(path)
    assert not caplog.records


@pytest.mark.parametrize(
    ("metrics", "panels"),
    [
        (None, []),
        ({"learning_rate": [0.1] * 4}, ["learning_rate"]),
        ({"wave_ratio": [0.6, 0.7], "perplexity": [9.0]}, ["wave_ratio", "perplexity"]),
        ({"val_loss": [2.0], "loss": [7.0]}, []),
        ({"accuracy": torch.tensor([0.5, 1.0]), "not yet": None, "empty": []}, ["accuracy"]),
        ({"learning_rate": 0.1, "perplexity": torch.tensor(9.0)}, []),
        ({"a$b$": [1, 2], "_c": [2, 1], "x" * 200: [0.1, 0.2]}, None),
    ],
)
def test_metrics_of_many_kinds(
    viz: VisualizationManager,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    metrics: Any,
    panels: list[str] | None,
) -> None:
    figures = keep_figures(monkeypatch, expkit.plots.panel_pictures, save=True)
    (path,) = viz.generate_training_plots(4, [4.0, 3.0, 2.0, 1.0], metrics)
    assert is_whole_png(path)
    assert not caplog.records
    if panels is not None:
        assert titles(figures[0]) == ["loss", *panels]


def test_single_numbers_are_written_under_the_title(viz: VisualizationManager, figures: list[Figure]) -> None:
    viz.generate_training_plots(2, [2.0, 1.0], {"learning_rate": 0.001, "perplexity": 12.345678})
    heading, note = (text.get_text() for text in figures[0].axes[0].texts)
    assert heading == "my_run: step 2"
    assert note == "learning_rate 0.001   perplexity 12.346"


def test_lists_of_any_length_spread_over_the_same_steps(viz: VisualizationManager, figures: list[Figure]) -> None:
    viz.generate_training_plots(300, NOISE[:300], {"accuracy": [1.0, 2.0, 3.0], "x": [0.0] * 301})
    loss, accuracy, x = (axes.lines[0].get_xdata() for axes in figures[0].axes)
    assert (loss[0], loss[-1]) == (1, 300)
    assert list(accuracy) == [100, 200, 300]
    assert (x[0], x[-1]) == (0, 300)
    assert len({axes.get_xlim() for axes in figures[0].axes}) == 1, "what happened together is seen together"


@pytest.mark.parametrize(
    ("losses", "scale"),
    [([10.0, 1.0, 0.1], "log"), ([10.0, 0.0], "linear"), ([10.0, -0.1], "linear"), ([1.5, 1.0], "linear")],
)
def test_positive_losses_over_a_wide_range_have_a_logarithmic_axis(
    viz: VisualizationManager, figures: list[Figure], losses: list[float], scale: str
) -> None:
    viz.generate_training_plots(3, losses, {"accuracy": [1.0, 100.0]})
    assert [axes.get_yscale() for axes in figures[0].axes] == [scale, "linear"]


def test_a_noisy_curve_is_faint_behind_its_average(viz: VisualizationManager, figures: list[Figure]) -> None:
    smooth = [math.exp(-step / 100) for step in range(400)]
    viz.generate_training_plots(400, NOISE, {"smooth": smooth})
    raw, average = figures[0].axes[0].lines
    assert raw.get_alpha() < 0.5
    assert average.get_alpha() is None
    assert np.abs(np.diff(average.get_ydata())).mean() < np.abs(np.diff(raw.get_ydata())).mean() / 2
    assert len(figures[0].axes[1].lines) == 1
    assert "moving average" in figures[0].axes[0].get_title("right")


def test_nan_is_counted_in_the_picture(viz: VisualizationManager, figures: list[Figure]) -> None:
    viz.generate_training_plots(4, [2.0, 1.0, math.nan, math.nan], {"accuracy": [math.nan]})
    assert figures[0].axes[0].get_title("right") == "2 values not finite, from step 3"
    assert "accuracy: not one finite value" in [text.get_text() for text in figures[0].axes[0].texts]


def test_a_million_losses_are_drawn_as_few_points(viz: VisualizationManager, figures: list[Figure]) -> None:
    losses = NOISE * 2500
    losses[765_432] = 99.0
    viz.generate_training_plots(len(losses), losses, {})
    raw, average = figures[0].axes[0].lines
    assert max(len(raw.get_xdata()), len(average.get_xdata())) <= 2000
    assert raw.get_xdata()[list(raw.get_ydata()).index(99.0)] == 765_433


@pytest.mark.parametrize(("losses", "metrics"), [([], {}), ([math.nan], {}), ([], {"learning_rate": 0.1})])
def test_nothing_to_draw_is_one_line_and_no_picture(
    viz: VisualizationManager, caplog: pytest.LogCaptureFixture, losses: list[float], metrics: dict[str, float]
) -> None:
    assert viz.generate_training_plots(5, losses, metrics) == []
    assert said(caplog) == ["no training plots at step 5: there is no finite value in a list to draw"]
    assert not list(viz.viz_dir.iterdir())


def test_metrics_alone_are_a_picture(viz: VisualizationManager, figures: list[Figure]) -> None:
    assert viz.generate_training_plots(5, [], {"accuracy": [1.0, 2.0]})
    assert titles(figures[0]) == ["accuracy"]


def test_what_is_no_metric_is_left_out_and_said_once(
    viz: VisualizationManager, figures: list[Figure], caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        viz.generate_training_plots(step, [1.0], {"note": "text", "accuracy": [1.0]})
    assert titles(figures[1]) == ["loss", "accuracy"]
    assert said(caplog) == ["left out of the plots: 'note' holds str, and a curve is made of numbers"]


def test_there_is_a_bound_to_the_panels(
    viz: VisualizationManager, figures: list[Figure], caplog: pytest.LogCaptureFixture
) -> None:
    viz.generate_training_plots(1, [1.0], {f"m{number}": [1.0, 2.0] for number in range(11)})
    assert titles(figures[0]) == ["loss", *(f"m{number}" for number in range(8))]
    assert said(caplog) == ["not drawn, as there are 9 panels already: m8, m9, m10"]


@pytest.mark.parametrize("model", [nn.Linear(1, 1), nn.DataParallel(nn.Linear(1, 1))], ids=["plain", "wrapped"])
def test_a_model_without_wave_tensors_is_one_line_once(
    viz: VisualizationManager, caplog: pytest.LogCaptureFixture, model: nn.Module
) -> None:
    assert [viz.generate_model_plots(step, model) for step in (1, 2)] == [[], []]
    assert said(caplog) == ["no wave tensors (frequencies, phases, amplitudes) in Linear: training plots only"]
    assert not list(viz.viz_dir.iterdir())


def test_wave_tensors_of_any_model_are_drawn(viz: VisualizationManager, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    for name, shape in (("frequencies", (3, 2)), ("phases", (3, 2)), ("amplitudes", (3, 2, 1))):
        model[1].register_buffer(name, torch.ones(shape))
    made = viz.generate_model_plots(1, nn.DataParallel(model))
    assert [path.name for path in made] == [
        f"{which}_step_1.png" for which in ("frequencies", "phases", "harmonics", "wave_packets")
    ]
    assert all(map(is_whole_png, made)) and not caplog.records


def test_tensors_of_these_names_that_are_no_waves_are_not_drawn(
    viz: VisualizationManager, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(1, 1)
    for name in ("frequencies", "phases", "amplitudes"):
        model.register_buffer(name, torch.ones(2))
    assert viz.generate_model_plots(1, model) == []
    assert said(caplog) == [
        "frequencies (2,), phases (2,), amplitudes (2,) in Linear, not (tokens, waves) twice and (tokens, waves, "
        "harmonics): training plots only"
    ]
