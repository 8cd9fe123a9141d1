"""The model of the screen that all faces draw: which panels there are, with which curves, and what has to be said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from expkit.detectors.base import Severity
from expkit.errors import UserError
from expkit.monitor.feed import RunFeed
from expkit.monitor.state import RunState
from expkit.plots.choosing import telling_groups
from expkit.plots.curve import Curve
from expkit.plots.panels import LOSSES, Line, Panel, make_panels
from expkit.record import RESERVED

__all__ = ["ALONG", "Along", "Screen", "View", "compose", "metric_names"]

Along = Literal["step", "time", "epoch"]
ALONG: tuple[Along, ...] = ("step", "time", "epoch")

_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))

_MOST_PANELS = 4
_MOST_MARKS = 50

#: The guide's panels: title -> the names of their metrics, in journals and in histories.
_BLOB = {
    "silhouette": ("blob/silhouette_score", "silhouette_score"),
    "clusters": ("blob/n_clusters_dbscan", "n_clusters_dbscan"),
    "weight correlation": ("blob/weight_correlation", "weight_correlation"),
}
_COUNTS = ("n_clusters_dbscan", "n_clusters", "epoch", "n_noise_points", "_count")
_REMARKS = {"silhouette": "none yet: it needs two clusters or more"}
_MISSING = {"silhouette": "undefined (one cluster)"}


@dataclass(frozen=True, slots=True)
class View:
    """What somebody wants to see.

    Attributes:
        metrics: a panel each: names or patterns as in a shell, several in a panel joined by `+`
            ("train_loss+val_loss", "blob/*"). None: the guide's four panels, or the most telling ones.
        along: what the horizontal axes are.
        logarithmic: whether vertical axes are; None: where it is telling.
        bins: points of a line, for faces that can show only so many; None for all that are kept.
        between: the part of the steps that is seen; None for all.
    """

    metrics: Sequence[str] | None = None
    along: Along = "step"
    logarithmic: bool | None = None
    bins: int | None = None
    between: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Screen:
    """What a face draws.

    Attributes:
        heading: the runs in one line.
        runs: how each stands.
        panels: in their order.
        notes: what there is to say besides, one sentence each.
    """

    heading: str
    runs: Sequence[RunState]
    panels: Sequence[Panel]
    notes: Sequence[str]


def compose(feeds: Sequence[RunFeed], states: Sequence[RunState], view: View) -> Screen:
    """Return what there is to be seen of runs.

    Args:
        feeds: the runs, read.
        states: how each stands.
        view: what is wanted.
    """
    notes: list[str] = []
    groups = _wanted(feeds, view.metrics, notes) if view.metrics else _usual(feeds, notes)
    axis = _axis(feeds, view.along)
    panels = [_panel(title, names, feeds, view, axis, place) for place, (title, names) in enumerate(groups.items())]
    notes += _remarks(feeds, states)
    heading = feeds[0].name if len(feeds) == 1 else f"{len(feeds)} runs: {', '.join(feed.name for feed in feeds)}"
    return Screen(heading, states, panels, notes)


def metric_names(feeds: Sequence[RunFeed]) -> list[str]:
    """Return the names of all metrics that any of the runs has."""
    return sorted({name for feed in feeds for name in feed.curves} - RESERVED)


def _usual(feeds: Sequence[RunFeed], notes: list[str]) -> dict[str, list[str]]:
    """Return title -> metrics of the panels where nobody has said which."""
    names = metric_names(feeds)
    groups = {title: [name for name in known if name in names] for title, known in _BLOB.items()}
    if any(groups.values()):
        losses = [name for name in LOSSES if name in names]
        return {**groups, **({"loss": losses} if losses else {})}
    telling: dict[str, list[str]] = {}
    for feed in feeds:
        for title, members in telling_groups(feed.curves).items():
            telling[title] = sorted({*telling.get(title, ()), *members}, key=lambda name: (name not in LOSSES, name))
    if any(feed.curves for feed in feeds):
        notes.append(
            "No diagnostics available: python -m train ... diagnostics=blob turns on silhouette, clusters and weight "
            "correlation; these panels show what the run has (--metrics chooses others)"
        )
    return dict(list(telling.items())[:_MOST_PANELS])


def _wanted(feeds: Sequence[RunFeed], metrics: Sequence[str], notes: list[str]) -> dict[str, list[str]]:
    """Return title -> metrics of the panels that somebody has named."""
    names = metric_names(feeds)
    groups: dict[str, list[str]] = {}
    for wanted in metrics:
        patterns = [pattern.strip() for pattern in wanted.split("+") if pattern.strip()]
        if not patterns:
            raise UserError(f"--metrics {','.join(metrics)}: a name is empty; write train_loss+val_loss,blob/*")
        found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
        if not found:
            notes.append(f"there is no metric {wanted} (yet){_similar(patterns[0], names)}")
        groups[wanted if len(found) != 1 else found[0]] = found
    return groups


def _similar(pattern: str, names: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(pattern, names, n=3, cutoff=0.5) or list(names[:3])
    return f": {', '.join(close)} are some that there are" if close else ""


@dataclass(frozen=True, slots=True)
class _Axis:
    """A horizontal axis: its name, and for each feed what turns its steps into places; None for steps themselves."""

    name: str
    places: Mapping[str, Callable[[Any], Any]] | None = None

    def of(self, feed: RunFeed, curve: Curve) -> Curve:
        return curve.over(self.places[str(feed.run.root)]) if self.places is not None else curve


def _axis(feeds: Sequence[RunFeed], along: Along) -> _Axis:
    """Return the axis; time is in the largest unit of which the longest run has two."""
    if along == "step":
        return _Axis("step")
    if along == "epoch":
        return _Axis("epoch", {str(feed.run.root): feed.epochs for feed in feeds})
    longest = max((feed.duration for feed in feeds), default=0.0)
    unit, seconds = next((each for each in _UNITS if longest >= 2 * each[1]), _UNITS[-1])
    places = {str(feed.run.root): _scaled(feed.seconds, seconds) for feed in feeds}
    return _Axis(f"{unit} since the first record", places)


def _scaled(places: Callable[[Any], Any], unit: float) -> Callable[[Any], Any]:
    return lambda steps: places(steps) / unit


def _panel(title: str, names: Sequence[str], feeds: Sequence[RunFeed], view: View, axis: _Axis, place: int) -> Panel:
    if len(feeds) == 1:
        curves = {name: axis.of(feeds[0], _curve(feeds[0], name, view)) for name in names}
        lines: Sequence[Line] = make_panels({title: names}, curves)[0].lines
        if not any(name.startswith(("train_", "val_")) or name in LOSSES for name in names):
            lines = [replace(line, colour=2 + (place + index) % 6) for index, line in enumerate(lines)]
    else:
        lines = [
            Line(
                feed.name if len(names) == 1 else f"{feed.name}: {name}",
                axis.of(feed, _curve(feed, name, view)),
                number,
                dash,
            )
            for number, feed in enumerate(feeds)
            for dash, name in enumerate(names)
            if name in feed.curves
        ]
    return Panel(
        title,
        lines,
        along=axis.name,
        stepped=bool(names) and all(name.endswith(_COUNTS) for name in names),
        logarithmic=view.logarithmic,
        marks=_marks(feeds, axis),
        remark=_REMARKS.get(title, "no value yet"),
        missing=_MISSING.get(title, "not finite"),
    )


def _curve(feed: RunFeed, name: str, view: View) -> Curve:
    curve = feed.curves[name]
    if view.bins is not None or view.between is not None:
        curve = curve.thinned(view.bins or 1 << 20, view.between)
    return curve


def _marks(feeds: Sequence[RunFeed], axis: _Axis) -> list[float]:
    """Return where the last critical events and warnings were: of one run; of several, nobody could tell whose."""
    if len(feeds) != 1:
        return []
    steps = sorted(entry["step"] for entry in feeds[0].events if entry["severity"] != Severity.INFO)[-_MOST_MARKS:]
    return axis.of(feeds[0], Curve(steps, steps)).line()[0]


def _remarks(feeds: Sequence[RunFeed], states: Sequence[RunState]) -> list[str]:
    notes = []
    several = len(feeds) > 1
    for feed, state in zip(feeds, states, strict=True):
        whose = f"{feed.name}: " if several else ""
        if not feed.caught_up:
            notes.append(f"{whose}still reading: {feed.records:,} records so far")
        elif not feed.curves:
            notes.append(f"{whose}no record yet; waiting for {feed.run.metrics}")
        if state.broken:
            notes.append(f"{whose}{state.broken} line(s) of the journal cannot be read and were passed over")
        if state.restarts:
            notes.append(f"{whose}started again {state.restarts} time(s)")
    return notes
