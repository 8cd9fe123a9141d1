"""What the endpoints say, as plain values: for the page, and for other programs."""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, cast
from urllib.parse import quote

import numpy as np

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.journal import is_volatile
from expkit.monitor.monitor import TrainingMonitor
from expkit.plots.curve import Curve
from expkit.plots.interactive import look_of, make_figure, said_of
from expkit.plots.panels import Panel, line_of_run
from expkit.plots.themes import THEMES, Theme, find_theme
from expkit.reading.axis import ALONG, UNITS, Along, Axis, axis_of
from expkit.reading.feed import RunFeed
from expkit.reading.pictures import pictures_of, read_picture
from expkit.reading.screen import View, curve_seen, find_group, make_panel, metric_names

__all__ = ["Query", "memory", "metrics", "panels", "picture", "pictures", "state_of"]

_POINTS = 500
_LEAST_POINTS, _MOST_POINTS = 4, 20_000
_MOST_PANELS = 40
_MACHINE = ("gpu/", "cpu/", "memory/", "process/", "memory_allocated_mb")
_BINS = 300
_ALERTS = 50
_FAR = 1e18

#: The parameters of a question: name -> values, as urllib.parse.parse_qs returns them.
Query = Mapping[str, Sequence[str]]


def state_of(monitor: TrainingMonitor, version: str, interval: float, failure: str) -> dict[str, Any]:
    """Return how all runs stand, which panels are usually shown, and what there is to say."""
    screen = monitor.screen()
    return {
        "version": version,
        "interval": interval,
        "along": monitor.view.along,
        "logarithmic": monitor.view.logarithmic,
        "heading": screen.heading,
        "notes": [*screen.notes, *([f"the runs cannot be read now: {failure}"] if failure else [])],
        "reading": not all(feed.caught_up for feed in monitor.feeds),
        "panels": [panel.title for panel in screen.panels],
        "looks": {name: _looks(len(monitor.feeds), theme) for name, theme in THEMES.items()},
        "runs": [replace(state, alerts=state.alerts[-_ALERTS:]).to_json() for state in screen.runs],
    }


def metrics(monitor: TrainingMonitor, query: Query) -> dict[str, Any]:
    """Return the names of all metrics, or the values of those that `name` says.

    Args:
        monitor: of the runs.
        query: name (a metric, or patterns joined by +; may be given several times), run (an id; default: all), from
            and to (steps), points (at most so many for each; 500).

    Raises:
        UserError: a parameter is wrong.
    """
    known = [feed.name for feed in monitor.feeds]
    chosen = [feed for feed in monitor.feeds if feed.name in query.get("run", known)]
    if not chosen:
        raise UserError(f"run={query['run'][0]}: choose from {', '.join(known)}")
    if "name" not in query:
        return {"metrics": [_metric(name, chosen) for name in metric_names(chosen)]}
    points = _number(query, "points", _POINTS, _LEAST_POINTS, _MOST_POINTS)
    view = View(bins=int(points) // 2, between=_between(query))
    notes: list[str] = []
    names = [name for wanted in query["name"] for name in find_group(wanted, chosen, notes)[1]]
    if not names:
        raise UserError(f"name={query['name'][0]}: {'; '.join(notes)}")
    pairs = [(feed, name) for name in dict.fromkeys(names) for feed in chosen if name in feed.curves]
    return {"values": [_values(feed, name, view) for feed, name in pairs]}


def memory(monitor: TrainingMonitor) -> dict[str, Any]:
    """Return what the machines of the runs said last (GPUs, memory), and what this process itself uses."""
    runs = []
    for feed, state in zip(monitor.feeds, monitor.states(), strict=True):
        said = {name: value for name, value in feed.last.items() if name.startswith(_MACHINE)}
        runs.append({"name": feed.name, "metrics": said, "gauges": [asdict(gauge) for gauge in state.gauges]})
    used = time.process_time()
    return {"runs": runs, "monitor": {"rss_mb": _resident(), "cpu_seconds": round(used, 3), "pid": os.getpid()}}


def panels(monitor: TrainingMonitor, query: Query) -> dict[str, Any]:
    """Return panels as figures of plotly.

    Args:
        monitor: of the runs.
        query: panel (the title of a usual one, a metric, or patterns joined by +; given once for each), x (step, time,
            epoch), from and to (in its unit), unit (of time: 1, 60 or 3600 seconds; usually what fits), bins (of a
            line; 300), log (1 or 0), smooth (time constant of the moving average, a fraction of what is seen: 0 to
            0.5), theme (dark, light).

    Raises:
        UserError: a parameter is wrong.
    """
    wanted = query.get("panel", [])[:_MOST_PANELS]
    theme = find_theme(_text(query, "theme", list(THEMES)) or "dark")
    smoothing = _number(query, "smooth", 0, 0, 0.5) if "smooth" in query else None
    along = _text(query, "x", list(ALONG)) or monitor.view.along
    logarithmic = {"1": True, "0": False, None: monitor.view.logarithmic}[_text(query, "log", ["1", "0"])]
    bins = int(_number(query, "bins", _BINS, 10, _MOST_POINTS))
    unit = _text(query, "unit", UNITS)
    view = View(
        along=cast(Along, along),
        logarithmic=logarithmic,
        bins=bins,
        between=_between(query),
        unit=float(unit) if unit else None,
    )
    found = []
    usual = [panel.title for panel in monitor.screen().panels]
    for key in wanted:
        title, names = find_group(key, monitor.feeds, [])
        place = usual.index(key) if key in usual else zlib.crc32(key.encode())
        panel = make_panel(title, names, monitor.feeds, view, place)
        found.append({"key": key, **_panel(panel, theme, smoothing, monitor.feeds)})
    axis = axis_of(monitor.feeds, view.along, view.unit)
    return {"panels": found, "limits": _limits(monitor.feeds, axis), "unit": axis.unit}


def pictures(runs: Sequence[RunDir]) -> dict[str, Any]:
    """Return the pictures of runs with the addresses that the page asks for."""
    found = []
    for number, run in enumerate(runs):
        kinds = [
            {
                "kind": kind,
                "pictures": [
                    {"step": each.step, "url": f"pictures/{number}/{quote(each.name, safe='')}?{each.changed:x}"}
                    for each in of_kind
                ],
            }
            for kind, of_kind in pictures_of(run).items()
        ]
        found.append({"run": run.id, "kinds": kinds})
    return {"runs": found}


def picture(runs: Sequence[RunDir], number: str, name: str) -> tuple[bytes, str] | None:
    """Return a picture and its media type; None unless it is one of `pictures`."""
    return read_picture(runs[int(number)], name) if number in map(str, range(len(runs))) else None


def _looks(runs: int, theme: Theme) -> list[tuple[str, str]]:
    """Return colour and dash of each run, where several share a panel."""
    return [look_of(line_of_run("", Curve(), number), theme) for number in range(runs)]


def _metric(name: str, feeds: Sequence[RunFeed]) -> dict[str, Any]:
    last = {feed.name: feed.last.get(name) for feed in feeds if name in feed.curves}
    return {"name": name, "machine": is_volatile(name), "last": last}


def _values(feed: RunFeed, name: str, view: View) -> dict[str, Any]:
    curve = curve_seen(feed, name, view, axis_of([feed], "step"))
    first, last = view.between or (-math.inf, math.inf)  # a curve has a neighbour on each side, for its line
    points = [point for point in zip(*curve.line(), strict=True) if first <= point[0] <= last]
    return {
        "run": feed.name,
        "name": name,
        "points": len(points),
        "of": curve.count,
        "nonfinite": curve.nonfinite,
        "nonfinite_steps": [step for step in curve.nonfinite_steps if first <= step <= last],
        "steps": [step for step, _ in points],
        "values": [value for _, value in points],
    }


def _panel(panel: Panel, theme: Theme, smoothing: float | None, feeds: Sequence[RunFeed]) -> dict[str, Any]:
    lines = []
    for line in panel.lines:
        colour, dash = look_of(line, theme)
        run = line.colour if len(feeds) > 1 else None  # runs have a colour each
        metric = line.metric or line.label
        lines.append({"label": line.label, "metric": metric, "run": run, "colour": colour, "dash": dash})
    figure = make_figure(panel, theme, smoothing, legend=False)
    return {"title": panel.title, "said": said_of(panel), "lines": lines, "figure": figure}


def _limits(feeds: Sequence[RunFeed], axis: Axis) -> tuple[float, float] | None:
    """Return where the horizontal axes begin and end: what happened at one step is seen at one place."""
    found: list[float] = []
    for feed in feeds:
        steps = [step for curve in feed.curves.values() for step in curve.ends() or ()]
        if steps:
            ends = np.array([min(steps), max(steps)])
            places = axis.places(feed)
            found += [place for place in (ends if places is None else places(ends)).tolist() if math.isfinite(place)]
    if not found:
        return None
    room = 0.02 * (max(found) - min(found)) or 0.5
    return min(found) - room, max(found) + room


def _between(query: Query) -> tuple[float, float] | None:
    if "from" not in query and "to" not in query:
        return None
    first = _number(query, "from", -_FAR, -_FAR, _FAR)
    last = _number(query, "to", _FAR, -_FAR, _FAR)
    if first > last:
        raise UserError(f"from={first:g}: it is behind to={last:g}")
    return first, last


def _number(query: Query, name: str, usual: float, least: float, most: float) -> float:
    if name not in query:
        return usual
    try:
        value = float(query[name][0])
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise UserError(f"{name}={query[name][0]}: give a number from {least:g} to {most:g}")
    return value


def _text(query: Query, name: str, known: Sequence[str]) -> str | None:
    value = query[name][0] if name in query else None
    if value is not None and value not in known:
        raise UserError(f"{name}={value}: choose {' or '.join(known)}")
    return value


def _resident() -> float:
    """Return the resident memory of this process in MB (of 1024^2 bytes)."""
    import psutil

    resident: int = psutil.Process().memory_info().rss
    return round(resident / 2**20, 1)
