"""How curves are drawn: the one implementation of panels, themes and atomic pictures.

Only matplotlib's Figure is used: no pyplot, no backend, no rcParams, so that it works without a display, from any
thread, and whatever somebody has set for their own pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from expkit.files import atomic_writer
from expkit.plots.axes import PanelAxes, look_of, shown_text
from expkit.plots.layout import H_PAD, W_PAD, lay_out_when_changed
from expkit.plots.panels import Panel
from expkit.plots.themes import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = ["LiveGrid", "columns_of", "draw_grid", "draw_panels", "save_figure", "write_figure"]

_WIDTH = 11.0  # inches
_DPI = 120
_IN_LEGEND = 24


def draw_panels(
    heading: str, panels: Sequence[Panel], theme: Theme, note: str = "", shared_legend: bool = False
) -> Figure:
    """Draw the first panel over the whole width, the others below it.

    Args:
        heading: the picture's title.
        panels: at least one.
        theme: colours.
        note: a line under the title.
        shared_legend: the panels show the same things: one legend for all, below them.
    """
    from matplotlib.figure import Figure

    below = len(panels) - 1
    columns = (1, 1, 2, 3, 2)[below] if below < 5 else 3
    rows = -(-below // columns)
    figure = Figure(figsize=(_WIDTH, 4.4 + 2.6 * rows))
    _lay_out(figure, theme)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[3.6, *[2.6] * rows])
    places = [grid[0, :], *(grid[1 + index // columns, index % columns] for index in range(below))]
    _fill(figure, places, panels, theme, legends=not shared_legend, first_wide=True)
    _head(figure.axes[0], heading, note, theme)
    if shared_legend:
        _legend_below(figure, panels, theme)
    return figure


def draw_grid(figure: Figure, heading: str, panels: Sequence[Panel], theme: Theme, note: str = "") -> None:
    """Draw panels of equal size into a figure, in place of what it shows: four are two by two.

    Args:
        figure: whose size stays.
        heading: the picture's title.
        panels: at least one.
        theme: colours.
        note: what there is to say, under the title.
    """
    LiveGrid(figure, theme).draw(heading, panels, note)


class LiveGrid:
    """A grid of panels that is drawn again and again: panels that look as before only get their newer data.

    Args:
        figure: whose size stays.
        theme: colours.
    """

    def __init__(self, figure: Figure, theme: Theme) -> None:
        self._figure, self._theme = figure, theme
        self._drawn: list[PanelAxes] = []
        self._note: Any = None

    def draw(self, heading: str, panels: Sequence[Panel], note: str = "") -> None:
        """Show these panels, at least one."""
        if not self._update(panels):
            self._draw(panels)
        self._head(heading, note)

    def clear(self) -> None:
        """Show nothing."""
        self._figure.clear()
        self._figure.set_facecolor(self._theme.figure)
        self._drawn, self._note = [], None

    def _update(self, panels: Sequence[Panel]) -> bool:
        if len(panels) != len(self._drawn):
            return False
        if not all(drawn.update(panel) for drawn, panel in zip(self._drawn, panels, strict=True)):
            return False
        for drawn in self._drawn:
            drawn.axes.set_xlim(*_step_limits(panels))
        return True

    def _draw(self, panels: Sequence[Panel]) -> None:
        self.clear()
        lay_out_when_changed(self._figure)
        columns = columns_of(len(panels))
        grid = self._figure.add_gridspec(-(-len(panels) // columns), columns)
        places = [grid[index // columns, index % columns] for index in range(len(panels))]
        self._drawn = _fill(self._figure, places, panels, self._theme, legends=True, first_wide=columns == 1)

    def _head(self, heading: str, note: str) -> None:
        """Write heading and note above all panels."""
        from matplotlib.transforms import ScaledTranslation

        figure, theme = self._figure, self._theme
        title = shown_text(heading, 90) + "\n" * bool(note)
        figure.suptitle(title, x=0.012, ha="left", color=theme.text, fontsize=14).set_fontweight("bold")
        if self._note is None:
            down = figure.transFigure + ScaledTranslation(0, -21 / 72, figure.dpi_scale_trans)  # points
            self._note = figure.text(0.012, 0.98, "", va="top", color=theme.muted, fontsize=9, transform=down)
        self._note.set_text(shown_text(note, 190))


def columns_of(panels: int) -> int:
    """Return how many panels `draw_grid` draws side by side."""
    return 1 if panels < 2 else 2 if panels < 5 else 3


def _lay_out(figure: Figure, theme: Theme) -> None:
    figure.set_facecolor(theme.figure)
    figure.set_layout_engine("constrained", w_pad=W_PAD, h_pad=H_PAD)


def _fill(
    figure: Figure,
    places: Sequence[SubplotSpec],
    panels: Sequence[Panel],
    theme: Theme,
    legends: bool,
    first_wide: bool,
) -> list[PanelAxes]:
    limits = _step_limits(panels)
    drawn: list[PanelAxes] = []
    for index, (place, panel) in enumerate(zip(places, panels, strict=True)):
        first = drawn[0].axes if drawn else None  # who zooms into one sees the same of the others
        axes = figure.add_subplot(place, xlim=limits, sharex=first)
        drawn.append(PanelAxes(axes, panel, theme, legends, wide=first_wide and index == 0))
    return drawn


def save_figure(figure: Figure, path: Path) -> Path:
    """Write `figure` to `path`, as PNG, or as its name says (.svg, .pdf): the whole picture or, if that fails, none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix[1:].lower() if path.suffix.lower() in (".svg", ".pdf") else "png"
    with atomic_writer(path, durable=False) as file:
        write_figure(figure, file, kind)
    return path


def write_figure(figure: Figure, file: IO[bytes], kind: str) -> None:
    """Write `figure` to an open file: as png, svg or pdf."""
    figure.savefig(file, format=kind, dpi=_DPI, facecolor=figure.get_facecolor(), bbox_inches=None)


def _head(axes: Axes, heading: str, note: str, theme: Theme) -> None:
    """Write heading and note above the first panel, where its own title begins."""

    def write(text: str, points: float, **style: Any) -> None:
        axes.annotate(text, (0, 1), (0, points), "axes fraction", "offset points", annotation_clip=False, **style)

    write(shown_text(heading, 90), 48 if note else 30, color=theme.text, fontsize=14, fontweight="bold")
    if note:
        write(shown_text(note, 150), 30, color=theme.muted, fontsize=9)


def _step_limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Return the same limits for all panels: what happened at one step is seen at one place."""
    ends = [line.curve.ends() for panel in panels for line in panel.lines]
    steps = [step for found in ends if found is not None for step in found] or [0.0]
    first, last = min(steps), max(steps)
    room = 0.02 * (last - first) or 1
    return first - room, last + room


def _legend_below(figure: Figure, panels: Sequence[Panel], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    lines = {line.colour: line for panel in panels for line in panel.lines}
    shown = [lines[place] for place in sorted(lines)[:_IN_LEGEND]]
    labels = [shown_text(line.label) for line in shown]
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=2)
        for colour, dashes in (look_of(line, theme) for line in shown)
    ]
    if len(lines) > len(shown):
        handles.append(Line2D([], [], linestyle=""))
        labels.append(f"and {len(lines) - len(shown)} more")
    columns = max(1, min(5, 140 // (8 + max(map(len, labels)))))
    figure.set_figheight(figure.get_figheight() + 0.22 * -(-len(labels) // columns))
    figure.legend(
        handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9.5, labelcolor=theme.text
    )
