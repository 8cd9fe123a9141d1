"""The model of the screen that all faces draw: which panels there are, with which curves, and what has to be said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from expkit.errors import UserError
from expkit.plots.choosing import telling_groups
from expkit.plots.curve import Curve
from expkit.plots.panels import COLOURS, LOSSES, RUN_STYLES, Line, Panel, line_of_run, make_panels
from expkit.plots.themes import STYLES
from expkit.reading.axis import Along, Axis, axis_of
from expkit.reading.feed import RunFeed
from expkit.reading.state import RunState
from expkit.severity import Severity

__all__ = [
    "Screen",
    "View",
    "check_names",
    "compose",
    "curve_seen",
    "find_group",
    "make_panel",
    "metric_names",
    "missing_metrics",
]

_MOST_PANELS = 4
_MOST_MARKS = 50
_TOLD_APART = COLOURS * STYLES // RUN_STYLES  # runs

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
            ("train_loss+val_loss", "blob/*"). What is the name of a metric, or the title of a usual panel, is that
            and no pattern. None: the usual panels, which are the guide's four, or the most telling ones.
        along: what the horizontal axes are.
        logarithmic: whether vertical axes are; None: where it is telling.
        bins: points of a line, for faces that can show only so many; None for all that are kept.
        between: the part of the horizontal axis that is seen, in its unit; None for all. Where it has few bins, it is
            read from the journal again.
        unit: of time on a horizontal axis, in seconds (1, 60 or 3600), so that `between` means the same while a run
            goes on; None: what fits the longest run.
    """

    metrics: Sequence[str] | None = None
    along: Along = "step"
    logarithmic: bool | None = None
    bins: int | None = None
    between: tuple[float, float] | None = None
    unit: float | None = None


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
    panels = [make_panel(title, names, feeds, view, place) for place, (title, names) in enumerate(groups.items())]
    if len(feeds) > _TOLD_APART:
        notes.append(f"more than {_TOLD_APART} runs: from there on lines look like those of earlier runs")
    notes += _remarks(feeds, states)
    heading = feeds[0].name if len(feeds) == 1 else f"{len(feeds)} runs: {', '.join(feed.name for feed in feeds)}"
    return Screen(heading, states, panels, notes)


def metric_names(feeds: Sequence[RunFeed]) -> list[str]:
    """Return the names of all metrics that any of the runs has."""
    return sorted({name for feed in feeds for name in feed.metrics})


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
    if any(feed.curves for feed in feeds) and not any(feed.config.get("diagnostics") for feed in feeds):
        notes.append(
            "No diagnostics available: diagnostics=gradients,activations (any model) or diagnostics=blob (two-layer "
            "networks: silhouette, clusters, weight correlation) turns them on"
        )
    return dict(list(telling.items())[:_MOST_PANELS])


def _wanted(feeds: Sequence[RunFeed], metrics: Sequence[str], notes: list[str]) -> dict[str, list[str]]:
    """Return title -> metrics of the panels that somebody has named."""
    check_names(metrics)
    return dict(find_group(wanted, feeds, notes) for wanted in metrics)


def check_names(metrics: Sequence[str]) -> None:
    """Refuse what names no metric at all.

    Raises:
        UserError: a name is empty.
    """
    if not all(name.strip() for wanted in metrics for name in wanted.split("+")):
        raise UserError(f"--metrics {','.join(metrics)}: a name is empty; write train_loss+val_loss,blob/*")


def find_group(wanted: str, feeds: Sequence[RunFeed], notes: list[str]) -> tuple[str, list[str]]:
    """Return title and metrics of one panel that somebody has named as in `View.metrics`; say what is not there."""
    names = metric_names(feeds)
    if wanted in names:
        return wanted, [wanted]
    usual = _usual(feeds, [])
    if wanted in usual:
        return wanted, usual[wanted]
    patterns = [pattern.strip() for pattern in wanted.split("+") if pattern.strip()]
    found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not found:
        notes.append(_no_metric(wanted, patterns, names))
    return wanted if len(found) != 1 else found[0], found


def missing_metrics(feeds: Sequence[RunFeed], metrics: Sequence[str]) -> list[str]:
    """Return a line for each name, of those between `+` too, that is none of a metric, as far as is known yet.

    Args:
        feeds: the runs, read.
        metrics: as in `View.metrics`.
    """
    notes: list[str] = []
    for wanted in metrics:
        whole: list[str] = []
        find_group(wanted, feeds, whole)
        parts = [part.strip() for part in wanted.split("+")]
        if whole or len(parts) == 1:
            notes += whole
        elif wanted not in metric_names(feeds):
            for part in parts:
                find_group(part, feeds, notes)
    return notes


def _no_metric(wanted: str, patterns: Sequence[str], names: Sequence[str]) -> str:
    """Return the line that says so, with what is close."""
    from difflib import get_close_matches

    close = [name for pattern in patterns for name in get_close_matches(pattern, names, n=3, cutoff=0.6)]
    close = list(dict.fromkeys(close or [name for name in names for part in patterns if _holds(name, part)]))[:3]
    if close:
        return f"there is no metric {wanted} (yet): did you mean {' or '.join(close)}?"
    some = f": there are {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
    return f"there is no metric {wanted} (yet){some if names else ''}"


def _holds(name: str, pattern: str) -> bool:
    return bool(pattern.strip("*?")) and pattern.strip("*?").lower() in name.lower()


def make_panel(title: str, names: Sequence[str], feeds: Sequence[RunFeed], view: View, place: int) -> Panel:
    """Return the panel of some metrics of runs; `place` chooses colours, for metrics that have none of their own."""
    axis = axis_of(feeds, view.along, view.unit)
    if len(feeds) == 1:
        curves = {name: curve_seen(feeds[0], name, view, axis) for name in names}
        lines: Sequence[Line] = make_panels({title: names}, curves)[0].lines
        if not any(name.startswith(("train_", "val_")) or name in LOSSES for name in names):
            lines = [replace(line, colour=2 + (place + index) % 6, dash=index // 6) for index, line in enumerate(lines)]
    else:
        lines = [
            line_of_run(_label(feed, name, names), curve_seen(feed, name, view, axis), number, name, at, len(names))
            for number, feed in enumerate(feeds)
            for at, name in enumerate(names)
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


def _label(feed: RunFeed, name: str, names: Sequence[str]) -> str:
    return feed.name if len(names) == 1 else f"{feed.name}: {name}"


def curve_seen(feed: RunFeed, name: str, view: View, axis: Axis) -> Curve:
    """Return what is to be seen of a metric: the part and the points that a view wants, over its axis."""
    curve = feed.curves[name]
    between = axis.steps(feed, view.between) if view.between is not None else None
    if between is not None:
        curve = feed.detail(name, *between) or curve
    if view.bins is not None or between is not None:
        curve = curve.thinned(view.bins or 1 << 20, between)
    return axis.over(feed, curve)


def _marks(feeds: Sequence[RunFeed], axis: Axis) -> list[float]:
    """Return where the last critical events and warnings were: of one run; of several, nobody could tell whose."""
    if len(feeds) != 1:
        return []
    steps = sorted(entry["step"] for entry in feeds[0].events if entry["severity"] != Severity.INFO)[-_MOST_MARKS:]
    return axis.over(feeds[0], Curve(steps, steps)).line()[0]


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
