"""A grid that is drawn again and again shows what one drawn anew would show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from expkit.plots.curve import Curve
from expkit.plots.drawing import LiveGrid
from expkit.plots.panels import Line, Panel
from expkit.plots.themes import THEMES


class Canvas:
    """A figure with a grid, and what it looks like."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(8, 5))
        self.canvas = FigureCanvasAgg(self.figure)
        self.grid = LiveGrid(self.figure, THEMES["dark"])

    def pixels(self, *panels: Panel, heading: str = "run", note: str = "note", lay_out: bool = False) -> Any:
        """Draw; without `lay_out` the panels are where they would be without texts around them."""
        self.grid.draw(heading, panels, note)
        if not lay_out:
            self.figure.set_layout_engine("none")
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba()).copy()


def panel(values: Sequence[float], title: str = "loss", **more: Any) -> Panel:
    return Panel(title, [Line("train_loss", Curve(range(len(values)), list(values)), 0)], **more)


NOISY = [1 + 0.5 * math.sin(step**2) for step in range(400)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (panel(NOISY[:200]), panel(NOISY)),
        (panel([1.0, 2.0]), panel([1.0, 2.0, 3.0])),
        (panel(NOISY[:200]), panel([*NOISY[:300], 1e6])),
        (panel([*NOISY, math.nan]), panel([*NOISY, math.nan, 1.0, math.inf])),
        (panel(NOISY), panel([*NOISY, math.nan])),
        (panel(NOISY[:200], marks=[3.0]), panel(NOISY[:200], marks=[3.0, 100.0])),
        (panel(NOISY[:200], marks=[3.0]), panel(NOISY[:200], marks=[4.0])),
        (panel(NOISY[:20]), panel(NOISY[:40])),
        (panel([], remark="none yet"), panel([1.0, 2.0])),
        (panel([], remark="none yet"), panel([], remark="none at all")),
        (panel([1.0, 2.0]), panel([1.0, 2.0], logarithmic=True)),
        (panel([1.0, 2.0]), panel([1.0, 2.0], along="epoch")),
        (panel(NOISY), panel(NOISY, title="another")),
    ],
)
def test_what_was_changed_in_place_looks_as_if_drawn_anew(before: Panel, after: Panel) -> None:
    other = panel([1.0, 4.0, 2.0], title="b")
    live, anew = Canvas(), Canvas()
    live.pixels(before, other, heading="before", note="before")
    assert np.array_equal(live.pixels(after, other), anew.pixels(after, other))


def test_another_number_of_panels_is_drawn_anew() -> None:
    live, anew = Canvas(), Canvas()
    live.pixels(panel(NOISY))
    both = panel(NOISY), panel([1.0, 2.0])
    assert np.array_equal(live.pixels(*both), anew.pixels(*both))
    live.grid.clear()
    assert np.array_equal(live.pixels(*both), anew.pixels(*both))


def test_what_somebody_has_zoomed_into_can_be_whole_again() -> None:
    live, anew = Canvas(), Canvas()
    live.pixels(panel(NOISY[:200]))
    live.figure.axes[0].set(xlim=(20, 30), ylim=(0.9, 1))
    assert np.array_equal(live.pixels(panel(NOISY)), anew.pixels(panel(NOISY)))


def test_texts_are_measured_only_when_their_room_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []
    execute = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *given: measured.append(execute(*given)))
    live = Canvas()
    for count in range(200, 400, 50):
        live.pixels(panel(NOISY[:count]), lay_out=True)
    assert len(measured) == 1
    live.pixels(panel([*NOISY, 1e7]), lay_out=True)
    assert len(measured) == 2, "longer labels"
    live.figure.set_size_inches(6, 4)
    live.pixels(panel([*NOISY, 1e7]), lay_out=True)
    assert len(measured) == 3


def test_what_cannot_be_drawn_as_it_is_is_drawn_all_the_same() -> None:
    live = Canvas()
    live.pixels(panel([-1.7e308, 1.7e308], title="a\x1b[31m\n$x"))
    assert live.figure.axes[0].get_title("left") == "a\ufffd[31m\ufffd\\$x"
    live.pixels(panel([-1.7e308, 1.7e308, 1.0], title="a\x1b[31m\n$x"))


def test_of_very_many_lines_the_legend_has_those_that_there_is_room_for() -> None:
    lines = [Line(f"run {number}", Curve([1, 2], [number, 1.0]), number) for number in range(24)]
    live = Canvas()
    live.pixels(Panel("loss", lines))
    legend = live.figure.axes[0].get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == 16 and texts[-1] == "run 15  (and 8 more)"


@pytest.mark.parametrize(("theme", "least"), [("dark", 32), ("light", 32), ("print", 8)])
def test_lines_look_different_as_long_as_they_can(theme: str, least: int) -> None:
    looks = [THEMES[theme].look(colour, 0) for colour in range(least)]
    assert len(set(looks)) == least
    assert len({style for _, style in looks[:2]}) == (2 if theme == "print" else 1), "paper has no colours"
