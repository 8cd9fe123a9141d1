"""Panels as figures of plotly: plain JSON values, for any page that has plotly's JavaScript. plotly is not imported.

The colours are those of `expkit.plots.drawing`, the figures are {"data": [...], "layout": {...}}.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expkit.errors import UserError
from expkit.plots.panels import Band, Line, Panel
from expkit.plots.themes import Theme

__all__ = ["library", "look_of", "make_figure", "plain", "said_of"]

_DASHES = ("solid", "dash", "dot", "dashdot")
_FEW = 30  # values that are shown one by one
_CROWDED = 8  # lines
_NAME = 60
_NEAR, _FAR = 200, 1e8  # greatest by least value, up to which a logarithmic axis has ticks at 1, 2, 5 and at 10^n
_FEW_COUNTS = 8
_FLOAT32 = (1e-30, 1e30)  # well within its range


def library() -> Path:
    """Return the file of plotly's JavaScript.

    Raises:
        UserError: plotly is not installed.
    """
    spec = importlib.util.find_spec("plotly")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path
    raise UserError("plotly is not installed, which draws these pages: pip install plotly")


def make_figure(panel: Panel, theme: Theme, smoothing: float | None = None, legend: bool = True) -> dict[str, Any]:
    """Return a panel as a figure of plotly; arrays in it are numpy's, which orjson writes.

    Every trace has the label of its line as `legendgroup`, which is no text that plotly shows.

    Args:
        panel: what is drawn.
        theme: colours.
        smoothing: time constant of the moving average as a fraction of what is seen; 0 for none; None: an average
            where a line is noisy.
        legend: whether plotly draws one.
    """
    logarithmic = panel.is_logarithmic()
    traces: list[dict[str, Any]] = []
    for line in panel.lines:
        traces += _traces(panel, line, theme, logarithmic, smoothing)
    return {"data": traces, "layout": _layout(panel, theme, logarithmic, legend)}


def look_of(line: Line, theme: Theme) -> tuple[str, str]:
    """Return colour and dash: after the last colour they begin again, dashed differently."""
    colour, style = theme.look(line.colour, line.dash)
    return colour, _DASHES[style]


def said_of(panel: Panel) -> list[str]:
    """Return what there is to say of a panel: how many points it has of how many, and what was not finite."""
    said = []
    count = sum(line.curve.count for line in panel.lines)
    shown = sum(len(line.curve.line()[0]) for line in panel.lines)
    if shown < count:
        said.append(f"{shown:,} of {count:,} points")
    for line in panel.lines:
        if line.curve.nonfinite:
            whose = f"{line.label}: " if len(panel.lines) > 1 else ""
            said.append(
                f"{whose}{line.curve.nonfinite:,} {panel.missing}, from {panel.along} {line.curve.first_nonfinite:,.6g}"
            )
    return said


def plain(text: str, longest: int = _NAME) -> str:
    """Return a name as plotly shows it letter by letter: its texts know some HTML. Long ones lose their middle."""
    text = text if len(text) <= longest else f"{text[: longest - 16]}…{text[-15:]}"
    return escape(text, quote=False)


def _traces(panel: Panel, line: Line, theme: Theme, logarithmic: bool, smoothing: float | None) -> list[dict[str, Any]]:
    """Return the traces of a line: its values, faint behind their average if there is one, and what is not finite."""
    colour, dash = look_of(line, theme)
    crowded = len(panel.lines) > _CROWDED
    name = plain(line.label)
    common = {"type": "scatter", "name": name, "legendgroup": line.label}
    strong = {"color": colour, "dash": dash, "width": 1.4 if crowded else 2}
    steps, values = line.curve.line()
    smooth = line.curve.noisy(logarithmic) if smoothing is None else smoothing > 0 and len(values) > 2
    band = panel.band(line)
    traces = _band(band, common, colour) if band is not None else []
    hover = "%{y:.6~g}"
    if smooth and not panel.stepped:
        hover = "%{y:.6~g} on average"
        traces.append(
            {
                **common, "x": _steps(steps), "y": _values(values), "mode": "lines", "hovertemplate": "%{y:.6~g}",
                "showlegend": False, "opacity": 0.15 if crowded else 0.35, "line": {"color": colour, "width": 1},
            }
        )  # fmt: skip
        steps, values = line.curve.average(smoothing) if smoothing else line.curve.average()
    mode = "lines+markers" if len(values) <= _FEW else "lines"
    shape = {"shape": "hv"} if panel.stepped else {}
    traces.append(
        {
            **common, "x": _steps(steps), "y": _values(values), "mode": mode, "line": {**strong, **shape},
            "marker": {"color": colour, "size": 6}, "hovertemplate": hover,
        }
    )  # fmt: skip
    missing = line.curve.nonfinite_steps
    if missing:
        traces.append(
            {
                **common, "x": _steps(missing), "y": np.ones(len(missing)), "yaxis": "y2", "mode": "markers",
                "showlegend": False, "marker": {"color": theme.alert, "symbol": "x", "size": 7},
                "hovertemplate": panel.missing, "cliponaxis": False,
            }
        )  # fmt: skip
    return traces


def _band(band: Band, common: dict[str, Any], colour: str) -> list[dict[str, Any]]:
    """Return the traces of what surrounds a line: its lower end, and its upper one filled down to that."""
    places, low, high = band
    edge = {
        **common, "x": _steps(places), "mode": "lines", "line": {"width": 0, "color": colour}, "showlegend": False,
        "hoverinfo": "skip",
    }  # fmt: skip
    filled = {**edge, "y": _values(high), "fill": "tonexty", "fillcolor": _faint(colour)}
    return [{**edge, "y": _values(low)}, filled]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"


def _layout(panel: Panel, theme: Theme, logarithmic: bool, legend: bool) -> dict[str, Any]:
    axis = {
        "gridcolor": theme.grid, "linecolor": theme.grid, "zeroline": False, "automargin": True,
        "tickfont": {"color": theme.muted},
    }  # fmt: skip
    whole = {"tickformat": ",d"} if panel.along == "step" else {}
    remark = {
        "text": plain(panel.remark), "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False,
        "font": {"color": theme.muted},
    }  # fmt: skip
    return {
        "paper_bgcolor": theme.axes,
        "plot_bgcolor": theme.axes,
        "font": {"color": theme.text, "family": "system-ui, sans-serif", "size": 12},
        "margin": {"l": 44, "r": 10, "t": 8, "b": 34},
        "showlegend": legend and len(panel.lines) > 1,
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": theme.figure, "bordercolor": theme.grid, "namelength": -1},
        "xaxis": {
            **axis,
            **whole,
            "type": "linear",
            "title": {"text": plain(panel.along), "font": {"color": theme.muted, "size": 11}, "standoff": 4},
        },
        "yaxis": {**axis, **_values_axis(panel, logarithmic)},
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        "shapes": [_mark(place, theme) for place in panel.marks],
        "annotations": [remark] if panel.bounds() is None else [],
    }


def _values_axis(panel: Panel, logarithmic: bool) -> dict[str, Any]:
    """Return what a vertical axis has of its own: where its ticks are, and how they are written."""
    bounds = panel.bounds()
    if bounds is None:
        return {"visible": False}
    low, high = bounds
    if logarithmic:
        near = {"dtick": "D2"} if high < _NEAR * low else {"dtick": 1} if high < _FAR * low else {}
        return {"type": "log", "tickformat": ".3~g", **near}
    if panel.stepped:
        return {"type": "linear", "tickformat": ",d", **({"dtick": 1} if high - low < _FEW_COUNTS else {})}
    return {"type": "linear", "exponentformat": "power"}


def _mark(place: float, theme: Theme) -> dict[str, Any]:
    return {
        "type": "line", "x0": place, "x1": place, "yref": "paper", "y0": 0, "y1": 1, "layer": "below", "opacity": 0.5,
        "line": {"color": theme.alert, "width": 1},
    }  # fmt: skip


def _steps(steps: Sequence[float] | NDArray[Any]) -> NDArray[Any]:
    """Return steps as few characters: whole numbers as such."""
    found = np.asarray(steps, float)
    whole = np.array_equal(np.rint(found), found) and bool(np.abs(found).max(initial=0) < 1 << 53)
    return found.astype(np.int64) if whole else found


def _values(values: Sequence[float] | NDArray[Any]) -> NDArray[Any]:
    """Return values with the eight digits that a picture needs, unless they are too great or small for that."""
    found = np.asarray(values, float)
    size = np.abs(found[found != 0])
    fits = not len(size) or (size.min() > _FLOAT32[0] and size.max() < _FLOAT32[1])
    return found.astype(np.float32) if fits else found
