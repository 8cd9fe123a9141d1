"""What pictures that are no panels of curves share: figures, axes and colours of a theme."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expkit.plots.themes import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = [
    "DASHES",
    "apart",
    "colour_bar",
    "cyclic",
    "finish",
    "in_depth",
    "new_figure",
    "restyle",
    "sequential",
    "shown",
    "style_axes",
]

#: Line styles, in the order in which they are told apart best.
DASHES: tuple[tuple[float, Sequence[float]], ...] = ((0, ()), (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))

_CHARACTERS_PER_INCH = 14.5  # of a note
_MOST = 28


def new_figure(theme: Theme, width: float, height: float) -> Figure:
    """Return an empty figure, `width` x `height` inches, that keeps its labels apart."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.figure)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.1, h_pad=0.09)  # type: ignore[call-arg]  # inches; of the constrained layout
    return figure


def style_axes(axes: Axes, theme: Theme, title: str = "", x: str = "", y: str = "", grid: bool = True) -> None:
    """Give axes the colours of a theme, and write on them."""
    axes.set_facecolor(theme.axes)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(visible=True, color=theme.grid, linewidth=0.8, linestyle="-", alpha=1)
    else:
        axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)
    axes.tick_params(which="both", colors=theme.muted, labelcolor=theme.muted, labelsize=8, length=0)
    axes.set_title(title, loc="left", color=theme.text, fontsize=10)
    axes.set_xlabel(x, color=theme.muted, fontsize=8.5)
    axes.set_ylabel(y, color=theme.muted, fontsize=8.5)


def finish(figure: Figure, theme: Theme, heading: str, note: str = "") -> Figure:
    """Write the title above everything, and a note below."""
    figure.suptitle(shown(heading, 90), x=0.012, ha="left", color=theme.text, fontsize=13, fontweight="bold")
    if note:
        text = textwrap.fill(note, int(_CHARACTERS_PER_INCH * figure.get_figwidth()))
        figure.supxlabel(text, x=0.012, ha="left", color=theme.muted, fontsize=8.5)
    return figure


def colour_bar(figure: Figure, image: Any, axes: Any, theme: Theme, label: str, **options: Any) -> Any:
    """Add a colour bar for what is drawn on `axes`, and return it."""
    bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=30, **options)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme.muted, labelcolor=theme.muted, labelsize=8, length=0)
    bar.set_label(label, color=theme.muted, fontsize=8.5)
    return bar


def sequential(theme: Theme) -> Colormap:
    """Return colours from that of empty axes to that of text, in even steps of lightness."""
    from matplotlib.colors import LinearSegmentedColormap

    middle = [theme.cycle[0]] if not theme.dashed else []
    return LinearSegmentedColormap.from_list("expkit", [theme.axes, *middle, theme.text])


def cyclic() -> Colormap:
    """Return colours that end where they begin: for angles."""
    from matplotlib import colormaps

    return colormaps["twilight"]


def in_depth(theme: Theme, count: int) -> list[Any]:
    """Return `count` colours, from that of the first layer to that of the last."""
    from matplotlib import colormaps

    places = [number / max(1, count - 1) for number in range(count)]
    if theme.dashed:
        return [(0.7 * place,) * 3 for place in places]
    light = theme.figure > "#8"
    return [colormaps["viridis"](0.9 * place if light else 0.15 + 0.85 * place) for place in places]


def shown(name: str, longest: int = _MOST) -> str:
    """Return a name as it is shown: no formula, no longer than there is room for."""
    name = name if len(name) <= longest else f"{name[: longest // 3]}…{name[longest // 3 + 1 - longest :]}"
    return name.replace("$", r"\$")


def apart(names: Sequence[str], longest: int) -> list[str]:
    """Return names as they are shown; if they are too long, without the beginning that they all have."""
    if len(names) > 1 and max(map(len, names)) > longest:
        differ = (place for place, letters in enumerate(zip(*names, strict=False)) if len({*letters}) > 1)
        common = next(differ, 0)
        names = [f"…{name[common:]}" if common > 1 else name for name in names]
    return [shown(name, longest) for name in names]


def restyle(figure: Figure, theme: Theme) -> Figure:
    """Give a figure that somebody has drawn in matplotlib's own colours those of a theme; its data keep theirs."""
    for part in (figure, *figure.subfigs):
        part.set_facecolor(theme.figure)
        for text in part.texts:
            _recolour(text, theme)
    for axes in figure.axes:
        if not axes.images:  # what is written on an image has been chosen for it
            axes.set_facecolor(theme.axes)
            for text in axes.texts:
                _recolour(text, theme)
        for spine in axes.spines.values():
            spine.set_color(theme.muted)
        axes.tick_params(which="both", colors=theme.muted, labelcolor=theme.muted)
        titles = (axes.title, axes._left_title, axes._right_title)  # type: ignore[attr-defined]
        for text in (*titles, axes.xaxis.label, axes.yaxis.label):
            _recolour(text, theme)
        legend = axes.get_legend()
        if legend is not None:
            legend.get_frame().set(facecolor=theme.axes, edgecolor=theme.grid)
            for text in legend.get_texts():
                _recolour(text, theme)
    return figure


def _recolour(text: Any, theme: Theme) -> None:
    """Give a text the theme's colour, unless it has one of its own."""
    if text.get_color() in ("black", "k", "#000000"):
        text.set_color(theme.text)
