"""The curves of a report: panels, as figures for plotly in each theme, and as pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from expkit.comparison.panels import panels_of
from expkit.plots.curve import Curve
from expkit.plots.interactive import look_of, make_figure, plain, said_of
from expkit.plots.panels import Line, Panel, group
from expkit.plots.themes import THEMES
from expkit.reading.screen import View, compose, make_panel
from expkit.report.content import Report, RunPart

__all__ = ["draw_curve", "labels_of", "panels_for", "plotted", "remarks_of"]

_BINS = 4000  # of all lines of a panel together
_FEWEST, _MOST = 60, 500
_MARKS = 50  # of a run
_HEIGHT = 0.95  # of marks, in the panel


def panels_for(report: Report) -> list[Panel]:
    """Return the panels: of one run training and validation together, with marks where alerts were; else a line each.

    Lines have as many points as a page can show.
    """
    comparison = report.comparison
    if not report.single:
        return [_thinned(panel) for panel in panels_of(comparison)]
    return [_thinned(panel) for panel in _of_one(report)]


def _of_one(report: Report) -> list[Panel]:
    """Return the panels of one run: the metrics that were chosen; if nobody did, also what is usually looked at."""
    part, comparison = report.runs[0], report.comparison
    feed, axis = part.data.feed, comparison.axis
    if axis.along != "step" and axis.along not in feed.curves:
        return []
    view = View(along=axis.along)
    curves = {name: feed.curves[name] for name in comparison.metrics}
    names = [name for name, curve in curves.items() if curve.count + curve.nonfinite > 1]
    panels = [
        make_panel(title, names, [feed], view, place) for place, (title, names) in enumerate(group(names).items())
    ]
    if comparison.request.metrics is None:
        seen = {line.label for panel in panels for line in panel.lines}
        usual = compose([feed], [part.state], view).panels
        panels += [
            each for each in usual if each.bounds() is not None and not seen & {line.label for line in each.lines}
        ]
    return panels


def plotted(report: Report, panels: Sequence[Panel], themes: Sequence[str]) -> dict[str, Any]:
    """Return panels as figures of plotly: data once, and what they look like in each theme.

    Marks are triangles at the upper edge, in the colour of their run.
    """
    limits = _limits(panels)
    return {
        "panels": [_plotted(report, panel, themes, limits) for panel in panels],
        "lines": [] if report.single else labels_of(panels, themes),
    }


def labels_of(panels: Sequence[Panel], themes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the labels of lines that several panels have, with colour and dash in each theme: for one legend."""
    lines = {line.label: line for panel in panels for line in panel.lines}
    ordered = sorted(lines.values(), key=lambda line: line.colour)
    return [{"label": line.label, "looks": {name: look_of(line, THEMES[name]) for name in themes}} for line in ordered]


def draw_curve(panel: Panel, theme: str, kind: str, shared: bool) -> bytes:
    """Return a panel as a picture, png or svg.

    Args:
        panel: what is drawn.
        theme: colours.
        kind: png or svg.
        shared: whether its lines are runs, so that the legend stands below it.
    """
    from expkit.plots.drawing import draw_panels, write_figure

    figure = draw_panels("", [panel], THEMES[theme], shared_legend=shared)
    out = io.BytesIO()
    write_figure(figure, out, kind)
    return out.getvalue()


def _thinned(panel: Panel) -> Panel:
    bins = min(max(_BINS // max(1, len(panel.lines)), _FEWEST), _MOST)
    return replace(panel, lines=[replace(line, curve=line.curve.thinned(bins)) for line in panel.lines])


def _plotted(report: Report, panel: Panel, themes: Sequence[str], limits: tuple[float, float] | None) -> dict[str, Any]:
    marks = [] if report.comparison.groups else _marks(report, panel)
    data: list[dict[str, Any]] = []
    looks = {}
    for name in themes:
        figure = make_figure(panel, THEMES[name], legend=report.single)
        traces = [*figure["data"], *(_mark_trace(part, line, places, name) for part, line, places in marks)]
        if limits is not None:
            figure["layout"]["xaxis"]["range"] = limits
        data = [{"x": trace.pop("x"), "y": trace.pop("y")} for trace in traces]
        looks[name] = {"data": traces, "layout": figure["layout"]}
    return {"data": data, "looks": looks}


def _marks(report: Report, panel: Panel) -> list[tuple[RunPart, Line | None, dict[float, str]]]:
    """Return runs with warnings and critical events, their lines, and place -> what is said there."""
    axis, found = report.comparison.axis, []
    for part in report.runs:
        line = next((line for line in panel.lines if line.label == part.label), None)
        if line is None and not report.single:
            continue
        told: dict[float, list[str]] = {}
        worse = [each for each in part.events if each.severity != "INFO" and each.kind != "response"]
        steps = sorted({float(each.step) for each in worse})[-_MARKS:]
        places = axis.over(part.data.feed, Curve(steps, steps)).line()[0]
        where = dict(zip(steps, places, strict=True))
        for each in worse:
            if each.step in where:
                told.setdefault(where[each.step], []).append(f"{each.severity.lower()}: {plain(each.kind)}")
        if told:
            found.append((part, line, {place: ", ".join(dict.fromkeys(texts)) for place, texts in told.items()}))
    return found


def _mark_trace(part: RunPart, line: Line | None, places: Mapping[float, str], theme: str) -> dict[str, Any]:
    colour = THEMES[theme].alert if line is None else look_of(line, THEMES[theme])[0]
    return {
        "type": "scatter", "mode": "markers", "name": "alert" if line is None else plain(line.label),
        "legendgroup": part.label if line is not None else "alerts", "showlegend": False, "x": list(places),
        "y": np.full(len(places), _HEIGHT), "yaxis": "y2", "hovertext": list(places.values()),
        "hovertemplate": "%{hovertext}", "marker": {"color": colour, "symbol": "triangle-down", "size": 10},
    }  # fmt: skip


def _limits(panels: Sequence[Panel]) -> tuple[float, float] | None:
    """Return where all horizontal axes begin and end: what happened at one step is seen at one place."""
    ends = [line.curve.ends() for panel in panels for line in panel.lines]
    found = [place for pair in ends if pair is not None for place in pair if np.isfinite(place)]
    room = 0.02 * (max(found) - min(found)) or 0.5 if found else 0
    return (min(found) - room, max(found) + room) if found else None


def remarks_of(panel: Panel) -> str:
    """Return what there is to say of a panel: how many points are drawn, and what was not finite."""
    return "; ".join(said_of(panel))
