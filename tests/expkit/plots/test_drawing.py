"""A picture is there whole or not at all, never stops a training, and leaves matplotlib as it was."""

from __future__ import annotations

import logging
import math
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import expkit.plots.panel_pictures
from expkit import VisualizationManager
from expkit.plots.curve import Curve
from expkit.plots.drawing import draw_grid, save_figure
from expkit.plots.panels import Line, Panel
from expkit.plots.themes import THEMES
from tests.expkit.plots.helpers import draw_here, is_whole_png, keep_figures, said

NOISE = [math.exp(-step / 100) + 0.2 * random.Random(step).random() for step in range(1, 401)]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_here(monkeypatch)


@pytest.fixture
def viz(tmp_path: Path) -> VisualizationManager:
    return VisualizationManager(tmp_path / "my_run" / "visualizations", viz_interval=100)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return keep_figures(monkeypatch, expkit.plots.panel_pictures)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda viz: viz.generate_training_plots(1, "text", {}), "training"),
        (lambda viz: viz.generate_training_plots(1, [[1.0, 2.0]], {}), "training"),
        (lambda viz: viz.generate_training_plots(1, [1.0], [{"loss": 1.0}]), "training"),
        (lambda viz: viz.generate_training_plots(None, [1.0], {}), "training"),
        (lambda viz: viz.generate_model_plots(1, None), "model"),
        (lambda viz: viz.generate_comparison_plots([1]), "comparison"),
        (lambda viz: viz.generate_comparison_plots(None), "comparison"),
    ],
)
def test_a_drawing_problem_is_one_warning(
    viz: VisualizationManager, caplog: pytest.LogCaptureFixture, call: Any, what: str
) -> None:
    assert call(viz) == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"Failed to generate {what} plots: ")
    assert "\n" not in record.getMessage()


def test_without_matplotlib_training_goes_on(
    viz: VisualizationManager, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (path,) = viz.generate_training_plots(1, [1.0], {})
    assert said(caplog)[0].startswith("Failed to generate training plots: ModuleNotFoundError: ")
    assert not path.exists()


def test_a_picture_that_fails_half_way_leaves_the_old_one(
    viz: VisualizationManager, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = viz.generate_training_plots(1, [1.0], {})
    before = path.read_bytes()

    def half(figure: Figure, file: Any, **options: Any) -> None:
        file.write(b"\x89PNG half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    viz.generate_training_plots(1, [1.0], {})
    assert said(caplog) == ["Failed to generate training plots: OSError: [Errno 28] No space left on device"]
    assert path.read_bytes() == before
    assert list(viz.viz_dir.iterdir()) == [path]


def test_what_a_killed_process_left_half_drawn_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".training_dynamics_step_1.png.{dead.pid}.0.tmp").write_bytes(b"\x89PNG half")
    VisualizationManager(tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_draws_from_several_threads_at_once(viz: VisualizationManager, caplog: pytest.LogCaptureFixture) -> None:
    threads = [
        threading.Thread(target=viz.generate_training_plots, args=(step, NOISE, {"x": [1.0, 2.0]}))
        for step in (1, 1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not caplog.records
    assert sorted(path.name for path in viz.viz_dir.iterdir() if is_whole_png(path)) == [
        f"training_dynamics_step_{step}.png" for step in (1, 2, 3)
    ]


@pytest.mark.parametrize("theme", THEMES)
def test_pictures_are_dark_unless_asked(tmp_path: Path, figures: list[Figure], theme: Any) -> None:
    VisualizationManager(tmp_path).generate_training_plots(1, [1.0], {})
    VisualizationManager(tmp_path, theme=theme).generate_training_plots(1, [1.0], {})
    assert [to_hex(figure.get_facecolor()) for figure in figures] == [THEMES["dark"].figure, THEMES[theme].figure]


def test_matplotlib_is_not_imported_where_training_is(tmp_path: Path) -> None:
    code = f"""
import sys
from expkit import VisualizationManager
viz = VisualizationManager({str(tmp_path)!r})
assert "matplotlib" not in sys.modules and "torch" not in sys.modules
assert viz.generate_training_plots(1, [1.0], {{}})
viz.close()
assert "matplotlib" not in sys.modules
"""
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"} | {"MPLBACKEND": "tkagg"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def drawn(*panels: Panel) -> Figure:
    figure = Figure(figsize=(13, 8))
    draw_grid(figure, "run", panels, THEMES["dark"], "note")
    figure.canvas.draw()
    return figure


def panel(values: list[float], title: str = "a", **more: Any) -> Panel:
    return Panel(title, [Line("a", Curve(range(len(values)), values), 0)], **more)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3)])
def test_a_grid_is_filled_row_by_row(count: int, columns: int) -> None:
    figure = drawn(*[panel([1.0, 2.0]) for _ in range(count)])
    rows = {round(axes.get_position().y0, 2) for axes in figure.axes}
    assert (len(figure.axes), len(rows)) == (count, -(-count // columns))


def test_a_panel_without_a_value_says_why() -> None:
    figure = drawn(Panel("silhouette", [], remark="none yet"), panel([math.nan], remark="not one"), panel([1.0, 2.0]))
    written = [{text.get_text() for text in axes.texts} - {"run", "note"} for axes in figure.axes]
    assert written == [{"none yet"}, {"not one"}, set()]


def test_counts_are_steps_and_events_are_thin_lines() -> None:
    (axes,) = drawn(panel([1.0, 3.0], stepped=True, marks=[1.0])).axes
    styles = [line.get_drawstyle() for line in axes.lines]
    assert styles == ["default", "steps-post"]
    assert list(axes.lines[0].get_xdata()) == [1.0, 1.0]


def test_values_that_are_not_finite_are_marked_where_they_were() -> None:
    (axes,) = drawn(panel([1.0, math.nan, 2.0, math.inf])).axes
    marks = [line for line in axes.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in marks] == [[1, 3]]


@pytest.mark.parametrize(("asked", "scale"), [(None, "linear"), (True, "log"), (False, "linear")])
def test_somebody_may_ask_for_a_logarithmic_axis(asked: bool | None, scale: str) -> None:
    (axes,) = drawn(panel([1.0, 100.0], logarithmic=asked)).axes
    assert axes.get_yscale() == scale
    (axes,) = drawn(panel([-1.0, 100.0], logarithmic=asked)).axes
    assert axes.get_yscale() == "linear", "it has negative values"


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_picture_is_of_the_kind_that_its_name_says(tmp_path: Path, suffix: str, begins: bytes) -> None:
    path = save_figure(drawn(panel([1.0, 2.0])), tmp_path / f"plot{suffix}")
    assert path.read_bytes().startswith(begins)
