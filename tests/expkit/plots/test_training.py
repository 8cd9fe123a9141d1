"""training_dynamics: curves from the journal alone, read on from where the last drawing ended."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import nn

import expkit.plots.training
from expkit.journal import Journal, JournalReader, cut_journal
from expkit.plots import NOTHING, Plot, PlotContext, PlotSource
from expkit.plots.samples import SamplesPlot
from expkit.plots.themes import THEMES
from expkit.plots.training import TrainingPlot
from expkit.record import make_record
from tests.expkit.plots.helpers import is_whole_png, keep_figures, titles


@pytest.fixture
def context(tmp_path: Path) -> PlotContext:
    return PlotContext(20, tmp_path, tmp_path / "metrics.jsonl", name="toy")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return keep_figures(monkeypatch, expkit.plots.training)


def write(context: PlotContext, first: int = 1, **curves: list[float]) -> None:
    with Journal(context.journal) as journal:
        for step, values in enumerate(zip(*curves.values(), strict=True), first):
            journal.write(make_record(step, dict(zip(curves, values, strict=True))))


def draw(context: PlotContext, plot: TrainingPlot | None = None) -> list[Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return (plot or TrainingPlot()).draw(context)


def shown(figure: Figure) -> dict[str, list[str]]:
    """Title -> curves of each panel."""
    return {
        axes.get_title("left"): [str(line.get_label()) for line in axes.lines if line.get_label()[0] != "_"]
        for axes in figure.axes
    }


@pytest.mark.parametrize(
    "curves",
    [
        {"train_loss": [3.0, 2.0], "val_loss": [3.0, 2.5], "learning_rate": [0.1, 0.05], "gradient_norm": [1.0, 2.0]},
        {"loss": [3.0, 2.0], "perplexity": [20.0, 7.0]},
        {"train_loss": [1000.0, 0.1]},
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


def test_what_is_validated_is_shown_beside_its_training_value(context: PlotContext, figures: list[Figure]) -> None:
    names = "train_loss val_loss train_perplexity val_perplexity train_accuracy val_accuracy learning_rate samples"
    changing = {name: [1.0, place] for place, name in enumerate([*names.split(), "samples_per_sec"], 2)}
    write(context, **changing, constant=[1.0, 1.0], **{"final/best_val_loss": [2.0, 1.0]})
    draw(context)
    assert shown(figures[0]) == {
        "loss": ["train_loss", "val_loss"],
        "accuracy": ["train_accuracy", "val_accuracy"],
        "perplexity": ["train_perplexity", "val_perplexity"],
        "learning_rate": ["learning_rate"],
    }


def test_what_the_machine_did_takes_no_panel_from_training(context: PlotContext, figures: list[Figure]) -> None:
    machine = {"cpu/percent": [1.0, 2.0], "gpu/0/temp_c": [40.0, 50.0], "samples_per_sec": [1.0, 9.0]}
    write(context, **machine, train_loss=[3.0, 2.0], sparsity=[0.1, 0.2], wave_ratio=[5.0, 6.0])
    draw(context)
    assert shown(figures[0]).keys() == {"loss", "sparsity", "wave_ratio"}


def test_a_copy_of_a_loss_is_not_shown_again(context: PlotContext, figures: list[Figure]) -> None:
    write(context, train_loss=[2.0, 1.0], train_scaled=[2.0, 1.0], gradient_norm=[1.0, 3.0])
    draw(context)
    assert titles(figures[0]) == ["loss", "gradient_norm"]


def test_every_steps_loss_is_shown_where_the_journal_has_it(context: PlotContext, figures: list[Figure]) -> None:
    with Journal(context.journal) as journal:
        journal.write(make_record(3, {"train_loss": 2.0}, series={"train_loss": [3.0, 2.0, 1.0]}))
        journal.write(make_record(5, {"train_loss": 0.5}, series={"train_loss": [0.75, 0.25]}))
    draw(context)
    (line,) = figures[0].axes[0].lines
    assert [list(data) for data in line.get_data()] == [[1, 2, 3, 4, 5], [3.0, 2.0, 1.0, 0.75, 0.25]]


def test_a_loss_that_never_was_finite_is_said_in_the_picture(context: PlotContext, figures: list[Figure]) -> None:
    write(context, train_loss=[math.nan] * 2, val_loss=[2.0, 1.0])
    draw(context)
    assert "not one finite value: train_loss" in [text.get_text() for text in figures[0].axes[0].texts]


def test_a_drawing_reads_only_what_is_new(
    context: PlotContext, figures: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    real = JournalReader._decode
    monkeypatch.setattr(JournalReader, "_decode", lambda self, line: decoded.append(line) or real(self, line))
    plot, context = TrainingPlot(), dataclasses.replace(context, step=53)
    write(context, train_loss=[3.0] * 50)
    draw(context, plot)
    assert len(decoded) == 50
    write(context, 51, train_loss=[2.0] * 3)
    draw(context, plot)
    assert len(decoded) == 53
    assert len(figures[1].axes[0].lines[0].get_data()[0]) == 53


@pytest.mark.parametrize("kept", [0, 3])
def test_a_journal_that_was_cut_is_drawn_as_it_is_now(context: PlotContext, figures: list[Figure], kept: int) -> None:
    plot = TrainingPlot()
    write(context, train_loss=[5.0, 4.0, 3.0, 2.0, 1.0])
    draw(context, plot)
    cut_journal(context.journal, kept)
    if not kept:
        assert draw(context, plot) == []
    write(context, kept + 1, train_loss=[9.0, 8.0])
    draw(context, plot)
    assert list(figures[-1].axes[0].lines[0].get_ydata()) == [*[5.0, 4.0, 3.0][:kept], 9.0, 8.0]


def test_a_plot_may_be_used_for_another_run(context: PlotContext, figures: list[Figure], tmp_path: Path) -> None:
    plot = TrainingPlot()
    write(context, train_loss=[5.0])
    draw(context, plot)
    other = PlotContext(7, tmp_path / "other", tmp_path / "other.jsonl", "other")
    write(other, train_loss=[1.0])
    assert draw(other, plot) == [tmp_path / "other" / "training_dynamics_step_7.png"]
    assert list(figures[-1].axes[0].lines[0].get_ydata()) == [1.0]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_the_journal_is_closed_when_the_plot_is_gone(context: PlotContext) -> None:
    def opened() -> int:
        files = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]  # noqa: PTH208
        return sum(os.path.exists(file) and os.path.realpath(file) == str(context.journal) for file in files)  # noqa: PTH110

    write(context, train_loss=[5.0])
    plot = TrainingPlot()
    draw(context, plot)
    assert opened() == 1
    del plot
    gc.collect()
    assert opened() == 0


@pytest.mark.parametrize("theme", THEMES)
def test_a_theme_colours_the_picture(context: PlotContext, figures: list[Figure], theme: Any) -> None:
    write(context, train_loss=[2.0, 1.0])
    draw(context, TrainingPlot(theme=theme))
    assert to_hex(figures[0].get_facecolor()) == THEMES[theme].figure
    assert to_hex(figures[0].axes[0].lines[0].get_color()) == THEMES[theme].cycle[0]


def test_an_unknown_theme_is_refused() -> None:
    with pytest.raises(ValueError, match="theme=blue: choose dark, light or print"):
        TrainingPlot(theme="blue")  # type: ignore[arg-type]


def test_a_picture_of_a_step_shows_nothing_later(context: PlotContext, figures: list[Figure]) -> None:
    plot = TrainingPlot()
    write(context, train_loss=[float(step) for step in range(1, 31)])  # training has gone on while this was waiting
    draw(context, plot)
    draw(dataclasses.replace(context, step=25), plot)
    assert [list(figure.axes[0].lines[0].get_xdata())[-1] for figure in figures] == [20, 25]


@pytest.mark.parametrize("theme", THEMES)
def test_a_tasks_own_figures_are_saved_in_the_colours_of_the_theme(context: PlotContext, theme: Any) -> None:
    class Task:
        def figures(self, model: Any) -> dict[str, Figure]:
            figure = Figure()
            figure.subplots().set(title="black", xlabel="too")
            figure.axes[0].yaxis.label.set_color("red")
            return {"samples": figure}

    plot, model = SamplesPlot(theme=theme), nn.Linear(1, 1)
    collected = plot.collect(PlotSource(model, Task()))
    (path,) = plot.draw(context, collected)
    assert path == context.folder / "samples_step_20.png" and is_whole_png(path)
    (axes,) = collected["samples"].axes
    colours = [axes.title.get_color(), axes.xaxis.label.get_color(), axes.yaxis.label.get_color()]
    assert colours == [THEMES[theme].text, THEMES[theme].text, "red"]
    assert plot.collect(PlotSource(model, task=None)) is NOTHING


@pytest.mark.parametrize("interval", [0, -5])
def test_an_interval_that_is_never_due_is_refused(interval: int) -> None:
    with pytest.raises(ValueError, match="viz_interval"):
        Plot(viz_interval=interval)
