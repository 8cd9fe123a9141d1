"""training_dynamics: curves from the journal alone."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from expkit.journal import Journal
from expkit.plots import Plot, PlotContext
from expkit.plots.samples import SamplesPlot
from expkit.plots.training import TrainingPlot, decimate
from expkit.record import make_record


@pytest.fixture
def context(tmp_path: Path) -> PlotContext:
    return PlotContext(20, tmp_path, tmp_path / "metrics.jsonl", nn.Linear(1, 1), task=None, name="toy")


def write(context: PlotContext, **curves: list[float]) -> None:
    with Journal(context.journal) as journal:
        for step, values in enumerate(zip(*curves.values(), strict=True), 1):
            journal.write(make_record(step, dict(zip(curves, values, strict=True))))


def draw(context: PlotContext) -> list[Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return TrainingPlot().draw(context)


@pytest.mark.parametrize(
    "curves",
    [
        {"train_loss": [3.0, 2.0], "val_loss": [3.0, 2.5], "learning_rate": [0.1, 0.05], "gradient_norm": [1.0, 2.0]},
        {"loss": [3.0, 2.0], "perplexity": [20.0, 7.0]},
        {"train_loss": [1000.0, 0.1]},
        {"train_loss": [1.0]},
        {"accuracy": [10.0, 20.0]},
        {"train_loss": [1.0, math.nan, math.inf, 0.5]},
        {"train_loss": [0.0, -1.0]},
    ],
    ids=lambda curves: " ".join(curves),
)
def test_a_picture_is_drawn_of_whatever_was_logged(context: PlotContext, curves: dict[str, list[float]]) -> None:
    write(context, **curves)
    (path,) = draw(context)
    assert path == context.folder / "training_dynamics_step_20.png"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("curves", [{}, {"train_loss": [math.nan]}, {"learning_rate": [0.1, 0.1]}])
def test_nothing_to_draw_is_no_picture(context: PlotContext, curves: dict[str, list[float]]) -> None:
    assert draw(context) == []
    write(context, **curves)
    assert draw(context) == []


def test_spikes_stay_when_a_long_curve_is_thinned() -> None:
    steps, values = list(range(100_000)), [1.0] * 100_000
    values[12_345], values[67_890] = 50.0, -50.0
    thin_steps, thin_values = decimate(steps, values)
    assert len(thin_values) <= 2100
    assert (max(thin_values), min(thin_values)) == (50.0, -50.0)
    assert thin_steps[thin_values.index(50.0)] == 12_345
    assert thin_steps == sorted(set(thin_steps))
    assert decimate([1, 2], [0.5, 0.6]) == ([1, 2], [0.5, 0.6])


def test_a_tasks_own_figures_are_saved(context: PlotContext, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    class Task:
        def figures(self, model: Any) -> dict[str, Figure]:
            return {"samples": Figure()}

    with_figures = PlotContext(5, tmp_path, context.journal, context.model, Task(), "toy")
    assert SamplesPlot().draw(with_figures) == [tmp_path / "samples_step_5.png"]
    assert (tmp_path / "samples_step_5.png").read_bytes().startswith(b"\x89PNG")
    assert SamplesPlot().draw(context) == []


@pytest.mark.parametrize("interval", [0, -5])
def test_an_interval_that_is_never_due_is_refused(interval: int) -> None:
    with pytest.raises(ValueError, match="viz_interval"):
        Plot(viz_interval=interval)
