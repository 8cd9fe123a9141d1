"""How curves are drawn: the one implementation of panels, themes and atomic pictures.

Only matplotlib's Figure is used: no pyplot, no backend, no rcParams, so that it works without a display, from any
thread, and whatever somebody has set for their own pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expkit.files import atomic_writer
from expkit.plots.panels import Line, Panel
from expkit.plots.themes import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = ["draw_grid", "draw_panels", "save_figure"]

_WIDTH = 11.0  # inches
_DPI = 120
_FEW = 30  # values that are shown one by one
_CROWDED = 8  # lines
_LABEL = 48
_IN_LEGEND = 24
_Dashes = Literal["-", "--", ":", "-."]
_DASHES: tuple[_Dashes, ...] = ("-", "--", ":", "-.")
_WHOLE = ("step", "epoch")


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
    figure.clear()
    _lay_out(figure, theme)
    columns = 1 if len(panels) == 1 else 2 if len(panels) < 5 else 3
    rows = -(-len(panels) // columns)
    grid = figure.add_gridspec(rows, columns)
    places = [grid[index // columns, index % columns] for index in range(len(panels))]
    _fill(figure, places, panels, theme, legends=True, first_wide=columns == 1)
    _head_above(figure, heading, note, theme)


def _lay_out(figure: Figure, theme: Theme) -> None:
    figure.set_facecolor(theme.figure)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)  # inches


def _fill(
    figure: Figure,
    places: Sequence[SubplotSpec],
    panels: Sequence[Panel],
    theme: Theme,
    legends: bool,
    first_wide: bool,
) -> None:
    limits = _step_limits(panels)
    first: Axes | None = None
    for index, (place, panel) in enumerate(zip(places, panels, strict=True)):
        axes = figure.add_subplot(place, xlim=limits, sharex=first)  # who zooms into one sees the same of the others
        first = first or axes
        _draw(axes, panel, theme, legends, wide=first_wide and index == 0)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write `figure` to `path`, as PNG, or as its name says (.svg, .pdf): the whole picture or, if that fails, none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix[1:].lower() if path.suffix.lower() in (".svg", ".pdf") else "png"
    with atomic_writer(path, durable=False) as file:
        figure.savefig(file, format=kind, dpi=_DPI, facecolor=figure.get_facecolor(), bbox_inches=None)
    return path


def _head(axes: Axes, heading: str, note: str, theme: Theme) -> None:
    """Write heading and note above the first panel, where its own title begins."""

    def write(text: str, points: float, **style: Any) -> None:
        axes.annotate(text, (0, 1), (0, points), "axes fraction", "offset points", annotation_clip=False, **style)

    write(_text(heading, 90), 48 if note else 30, color=theme.text, fontsize=14, fontweight="bold")
    if note:
        write(_text(note, 150), 30, color=theme.muted, fontsize=9)


def _head_above(figure: Figure, heading: str, note: str, theme: Theme) -> None:
    """Write heading and note above all panels."""
    from matplotlib.transforms import ScaledTranslation

    title = figure.suptitle(_text(heading, 110) + "\n" * bool(note), x=0.012, ha="left", color=theme.text, fontsize=14)
    title.set_fontweight("bold")
    down = ScaledTranslation(0, -21 / 72, figure.dpi_scale_trans)  # points
    figure.text(
        0.012, 0.98, _text(note, 190), va="top", color=theme.muted, fontsize=9, transform=figure.transFigure + down
    )


def _draw(axes: Axes, panel: Panel, theme: Theme, legend: bool, wide: bool) -> None:
    _style(axes, panel, theme, wide)
    lines = [line for line in panel.lines if line.curve.bounds() is not None]
    logarithmic = _scale(axes, panel, wide)
    crowded = len(lines) > _CROWDED
    averaged = False
    for mark in panel.marks:
        axes.axvline(mark, color=theme.alert, linewidth=0.9, alpha=0.5, zorder=1)
    for line in lines:
        colour, dashes = _look(line, theme)
        steps, values = line.curve.line()
        if line.curve.noisy(logarithmic) and not panel.stepped:
            averaged = True
            axes.plot(steps, values, color=colour, alpha=0.1 if crowded else 0.28, linewidth=0.8)
            steps, values = line.curve.average()
        axes.plot(
            steps, values, dashes, color=colour, linewidth=1.2 if crowded else 1.8, label=_text(line.label),
            drawstyle="steps-post" if panel.stepped else "default",
            marker="o" if len(values) <= _FEW else "", markersize=3.5,
        )  # fmt: skip
        _mark_missing(axes, line, colour)
    if not lines:
        axes.text(0.5, 0.5, _text(panel.remark), transform=axes.transAxes, ha="center", color=theme.muted, fontsize=9.5)
    elif legend and (len(panel.lines) > 1 or lines[0].label != panel.title):
        axes.legend(frameon=False, fontsize=9, labelcolor=theme.text, loc="best")
    remarks = [_missing(panel), "faint: every value, line: moving average" if averaged and wide else ""]
    axes.set_title(_text("   ".join(filter(None, remarks)), 110), loc="right", color=theme.muted, fontsize=8.5)


def _mark_missing(axes: Axes, line: Line, colour: str) -> None:
    """Mark where values were not finite, at the upper edge."""
    if steps := line.curve.nonfinite_steps:
        heights = [0.985] * len(steps)
        axes.plot(steps, heights, "x", color=colour, markersize=4.5, transform=axes.get_xaxis_transform(), zorder=5)


def _style(axes: Axes, panel: Panel, theme: Theme, wide: bool) -> None:
    axes.set_facecolor(theme.axes)
    axes.set_title(_text(panel.title), loc="left", color=theme.text, fontsize=12 if wide else 10.5)
    axes.set_axisbelow(True)
    axes.grid(visible=True, which="major", color=theme.grid, linewidth=0.8, linestyle="-", alpha=1)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    axes.tick_params(which="both", colors=theme.muted, labelcolor=theme.muted, labelsize=9, length=0)
    axes.set_xlabel(panel.along, color=theme.muted, fontsize=9)


def _step_limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Return the same limits for all panels: what happened at one step is seen at one place."""
    ends = [line.curve.ends() for panel in panels for line in panel.lines]
    steps = [step for found in ends if found is not None for step in found] or [0.0]
    first, last = min(steps), max(steps)
    room = 0.02 * (last - first) or 1
    return first - room, last + room


def _scale(axes: Axes, panel: Panel, wide: bool) -> bool:
    """Set ticks and scales; return whether the values have a logarithmic one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    whole = panel.along in _WHOLE
    ticks = MaxNLocator(nbins=8 if wide else 4, integer=whole, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1)
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if whole else "{x:,.6g}"))
    low, high = panel.bounds() or (0.0, 0.0)
    logarithmic = panel.is_logarithmic()
    if panel.stepped:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 3000 * low else (1,), numticks=9))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    return logarithmic


def _look(line: Line, theme: Theme) -> tuple[str, _Dashes]:
    """Return colour and line style: after the last colour they begin again, dashed differently."""
    turn, place = divmod(line.colour, len(theme.cycle))
    if theme.dashed:
        turn = line.colour
    return theme.cycle[place], _DASHES[(turn + line.dash) % len(_DASHES)]


def _missing(panel: Panel) -> str:
    broken = [line for line in panel.lines if line.curve.nonfinite]
    along = f"{panel.along} " if panel.along in _WHOLE else ""
    return ", ".join(
        f"{line.label}: {line.curve.nonfinite:,} {panel.missing}, from {along}{line.curve.first_nonfinite:,.6g}"
        if len(panel.lines) > 1
        else f"{line.curve.nonfinite:,} values {panel.missing}, from {along}{line.curve.first_nonfinite:,.6g}"
        for line in broken[:2]
    )


def _legend_below(figure: Figure, panels: Sequence[Panel], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    lines = {line.colour: line for panel in panels for line in panel.lines}
    shown = [lines[place] for place in sorted(lines)[:_IN_LEGEND]]
    labels = [_text(line.label) for line in shown]
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=2)
        for colour, dashes in (_look(line, theme) for line in shown)
    ]
    if len(lines) > len(shown):
        handles.append(Line2D([], [], linestyle=""))
        labels.append(f"and {len(lines) - len(shown)} more")
    columns = max(1, min(5, 140 // (8 + max(map(len, labels)))))
    figure.set_figheight(figure.get_figheight() + 0.22 * -(-len(labels) // columns))
    figure.legend(
        handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9.5, labelcolor=theme.text
    )


def _text(name: str, longest: int = _LABEL) -> str:
    """Return a name as it is shown: no formula, not left out of the legend, and not longer than there is room for."""
    name = name if len(name) <= longest else f"{name[: longest - 16]}…{name[-15:]}"
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
