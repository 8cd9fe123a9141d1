"""A panel in matplotlib's axes: drawn, and changed in place while a run goes on.

Making axes anew takes longer than drawing the lines in them: while a panel is shown in the same way, only its data
changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from expkit.plots.panels import Line, Panel
from expkit.plots.themes import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PanelAxes", "look_of", "shown_text"]

_FEW = 30  # values that are shown one by one
_CROWDED = 8  # lines
_IN_LEGEND = 16
_LARGEST = 1e300  # what matplotlib finds ticks for
_LABEL = 48
_WHOLE = ("step", "epoch")
_Dashes = Literal["-", "--", ":", "-."]
_DASHES: tuple[_Dashes, ...] = ("-", "--", ":", "-.")


class _Stroke(NamedTuple):
    """A line as it is drawn: where it leads, and how it looks; `upper` counts its height from 0 to 1."""

    x: Any
    y: Any
    style: Mapping[str, Any]
    upper: bool = False


class PanelAxes:
    """A panel that is drawn.

    Args:
        axes: empty.
        panel: what to draw.
        theme: colours.
        legend: whether it has a legend of its own.
        wide: whether it has the width of the whole figure.
    """

    def __init__(self, axes: Axes, panel: Panel, theme: Theme, legend: bool, wide: bool) -> None:
        self.axes = axes
        self._theme, self._wide = theme, wide
        strokes = self._strokes(panel)
        self._kind = self._kind_of(panel, strokes)
        self._dress(panel)
        self._scale(panel)
        for line in panel.lines:
            band = panel.band(line)
            if band is not None:
                places, low, high = band
                axes.fill_between(places, low, high, color=look_of(line, theme)[0], alpha=0.2, linewidth=0)
        self._lines = [self._plot(stroke) for stroke in strokes]
        lines = _drawn(panel)
        if not lines:
            style: dict[str, Any] = {"ha": "center", "color": theme.muted, "fontsize": 9.5}
            axes.text(0.5, 0.5, shown_text(panel.remark), transform=axes.transAxes, **style)
        elif legend and (len(panel.lines) > 1 or lines[0].label != panel.title):
            self._legend()
        self._remark(panel, strokes)

    def update(self, panel: Panel) -> bool:
        """Show newer data of the same panel; return False if it has to be drawn anew, for it looks different now."""
        strokes = self._strokes(panel)
        if self._kind_of(panel, strokes) != self._kind or any(line.band is not None for line in panel.lines):
            return False
        for line, stroke in zip(self._lines, strokes, strict=True):
            line.set_data(stroke.x, np.clip(stroke.y, -_LARGEST, _LARGEST))
        self._remark(panel, strokes)
        self.axes.relim()
        self.axes.autoscale(axis="y")
        return True

    def _legend(self) -> None:
        """Say which line is which: of very many, those that there is room for."""
        drawn = [line for line in self._lines if not line.get_label().startswith("_")]
        shown = drawn[:_IN_LEGEND]
        labels = [line.get_label() for line in shown]
        if len(drawn) > len(shown):
            labels[-1] += f"  (and {len(drawn) - len(shown)} more)"
        crowded = len(drawn) > _CROWDED
        self.axes.legend(
            shown, labels, frameon=False, fontsize=7.5 if crowded else 9, ncols=2 if crowded else 1,
            labelcolor=self._theme.text, loc="best",
        )  # fmt: skip

    def _plot(self, stroke: _Stroke) -> Any:
        style = dict(stroke.style)
        if stroke.upper:
            style["transform"] = self.axes.get_xaxis_transform()
        return self.axes.plot(stroke.x, np.clip(stroke.y, -_LARGEST, _LARGEST), **style)[0]

    def _strokes(self, panel: Panel) -> list[_Stroke]:
        mark = {"color": self._theme.alert, "linewidth": 0.9, "alpha": 0.5, "zorder": 1}
        strokes = [_Stroke([at, at], [0, 1], mark, upper=True) for at in panel.marks]
        lines, logarithmic = _drawn(panel), panel.is_logarithmic()
        crowded = len(lines) > _CROWDED
        for line in lines:
            colour, dashes = look_of(line, self._theme)
            steps, values = line.curve.line()
            if line.curve.noisy(logarithmic) and not panel.stepped:
                faint = {"color": colour, "alpha": 0.1 if crowded else 0.28, "linewidth": 0.8}
                strokes.append(_Stroke(steps, values, faint))
                steps, values = line.curve.average()
            style = {
                "color": colour, "linestyle": dashes, "linewidth": 1.2 if crowded else 1.8,
                "label": shown_text(line.label), "drawstyle": "steps-post" if panel.stepped else "default",
                "marker": "o" if len(values) <= _FEW else "", "markersize": 3.5,
            }  # fmt: skip
            strokes.append(_Stroke(steps, values, style))
            if missing := line.curve.nonfinite_steps:
                cross = {"linestyle": "", "marker": "x", "color": colour, "markersize": 4.5, "zorder": 5}
                strokes.append(_Stroke(missing, np.full(len(missing), 0.985), cross, upper=True))
        return strokes

    def _kind_of(self, panel: Panel, strokes: list[_Stroke]) -> object:
        """Return what cannot change in axes that are drawn."""
        looks = [(stroke.style, stroke.upper) for stroke in strokes]
        remark = "" if _drawn(panel) else panel.remark
        return panel.title, panel.along, panel.stepped, panel.is_logarithmic(), _subs(panel), remark, looks

    def _remark(self, panel: Panel, strokes: list[_Stroke]) -> None:
        averaged = self._wide and any("label" not in stroke.style and not stroke.upper for stroke in strokes)
        remarks = [_missing(panel), "faint: every value, line: moving average" if averaged else ""]
        text = shown_text("   ".join(filter(None, remarks)), 110)
        self.axes.set_title(text, loc="right", y=1, color=self._theme.muted, fontsize=8.5)

    def _dress(self, panel: Panel) -> None:
        axes, theme = self.axes, self._theme
        axes.set_facecolor(theme.axes)
        title_size = 12 if self._wide else 10.5
        axes.set_title(shown_text(panel.title), loc="left", y=1, color=theme.text, fontsize=title_size)
        axes.set_axisbelow(True)
        axes.grid(visible=True, which="major", color=theme.grid, linewidth=0.8, linestyle="-", alpha=1)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.grid)
        axes.tick_params(which="both", colors=theme.muted, labelcolor=theme.muted, labelsize=9, length=0)
        axes.set_xlabel(panel.along, color=theme.muted, fontsize=9)

    def _scale(self, panel: Panel) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

        axes, whole = self.axes, panel.along in _WHOLE
        nbins = 8 if self._wide else 4
        ticks = MaxNLocator(nbins=nbins, integer=whole, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1)
        axes.xaxis.set_major_locator(ticks)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if whole else "{x:,.6g}"))
        if panel.stepped:
            axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        if panel.is_logarithmic():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=_subs(panel), numticks=9))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def look_of(line: Line, theme: Theme) -> tuple[str, _Dashes]:
    """Return colour and line style: after the last colour they begin again, dashed differently."""
    colour, style = theme.look(line.colour, line.dash)
    return colour, _DASHES[style]


def _missing(panel: Panel) -> str:
    broken = [line for line in panel.lines if line.curve.nonfinite]
    along = f"{panel.along} " if panel.along in _WHOLE else ""
    return ", ".join(
        f"{line.label}: {line.curve.nonfinite:,} {panel.missing}, from {along}{line.curve.first_nonfinite:,.6g}"
        if len(panel.lines) > 1
        else f"{line.curve.nonfinite:,} values {panel.missing}, from {along}{line.curve.first_nonfinite:,.6g}"
        for line in broken[:2]
    )


def _drawn(panel: Panel) -> list[Line]:
    """Return the lines that have a value to show."""
    return [line for line in panel.lines if line.curve.bounds() is not None]


def _subs(panel: Panel) -> tuple[int, ...]:
    """Return the digits at which a logarithmic axis has ticks."""
    low, high = panel.bounds() or (1.0, 1.0)
    return (1, 2, 5) if high < 3000 * low else (1,)


def shown_text(name: str, longest: int = _LABEL) -> str:
    """Return a name as it is shown: no formula, not left out of the legend, and not longer than there is room for."""
    name = "".join(character if character.isprintable() else "\ufffd" for character in name)
    name = name if len(name) <= longest else f"{name[: longest - 16]}…{name[-15:]}"
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
