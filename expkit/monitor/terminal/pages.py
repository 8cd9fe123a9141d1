"""Which panels are on which page: first what is most telling, then every metric that there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeVar

from expkit.monitor.terminal.controls import Controls
from expkit.plots.panels import Panel, group
from expkit.reading.feed import RunFeed
from expkit.reading.screen import Screen, View, compose, metric_names
from expkit.reading.state import RunState

__all__ = ["Page", "grid", "matching", "turn_to"]

_BINS = 1024  # more than a terminal shows: the average is that of other faces
_NARROWEST, _LOWEST = 38, 7  # cells of a panel
_MOST = 9

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Page:
    """What is on the page that is shown.

    Attributes:
        screen: its panels, and what there is to say.
        number: of the page, from 0.
        pages: how many there are.
        metrics: how many metrics there are to be seen.
    """

    screen: Screen
    number: int
    pages: int
    metrics: int


def grid(width: int, height: int, panels: int) -> tuple[int, int]:
    """Return columns and rows of so many panels, or of as many as there is room for."""
    columns, rows = max(1, width // _NARROWEST), max(1, height // _LOWEST)
    while columns * rows > max(panels, 1) and columns * rows > 1:
        wide = width / columns > 5 * height / rows  # a cell is about twice as high as it is wide
        if rows > 1 and (wide or columns == 1) and columns * (rows - 1) >= panels:
            rows -= 1
        elif columns > 1 and (columns - 1) * rows >= panels:
            columns -= 1
        elif rows > 1 and columns * (rows - 1) >= panels:
            rows -= 1
        else:
            break
    return columns, rows


def turn_to(
    feeds: Sequence[RunFeed], states: Sequence[RunState], view: View, controls: Controls, room: tuple[int, int]
) -> Page:
    """Return the page that somebody has turned to.

    Args:
        feeds, states: of the runs that are shown.
        view: what the command line asks for; axes are as `controls` says.
        controls: what somebody has chosen since.
        room: columns and rows of cells for the panels.
    """
    capacity = min(_MOST, max(1, room[0] // _NARROWEST) * max(1, room[1] // _LOWEST))
    view = replace(view, along=controls.along, logarithmic=controls.logarithmic, bins=_BINS)
    names = metric_names(feeds)
    if controls.filter:
        first: Screen | None = None
        wanted = group(matching(names, controls.filter))
    else:
        first = compose(feeds, states, view)
        seen = _seen(first.panels, feeds)
        left = [name for name in names if name not in seen]
        wanted = group(sorted(left, key=lambda name: name.startswith("final/")))  # what is known at the end comes last
    chunks = _chunks(list(first.panels) if first is not None else [], capacity)
    others = _chunks(list(wanted), capacity)
    pages = max(1, len(chunks) + len(others))
    number = controls.page % pages
    metrics = len(matching(names, controls.filter))
    if first is not None and number < len(chunks):
        return Page(replace(first, panels=chunks[number]), number, pages, metrics)
    if not others:
        empty = first or Screen("", states, [], [])
        return Page(empty, 0, 1, metrics)
    titles = others[number - len(chunks)]
    patterns = ["+".join(_pattern(name) for name in wanted[title]) for title in titles]
    screen = compose(feeds, states, replace(view, metrics=patterns))
    panels = [replace(panel, title=title) for title, panel in zip(titles, screen.panels, strict=False)]
    return Page(replace(screen, panels=panels), number, pages, metrics)


def matching(names: Sequence[str], wanted: str) -> list[str]:
    """Return the names that hold what is wanted, whatever the case; or that match it, if it is a pattern."""
    pattern = wanted.lower() if any(sign in wanted for sign in "*?[") else f"*{wanted.lower()}*"
    return [name for name in names if fnmatchcase(name.lower(), pattern)]


def _pattern(name: str) -> str:
    """Return a pattern that matches this name; `+` stands between patterns."""
    return "".join("?" if sign in "+*?[], " else sign for sign in name)


def _seen(panels: Sequence[Panel], feeds: Sequence[RunFeed]) -> set[str]:
    """Return the metrics that panels show."""
    if len(feeds) == 1:
        return {line.label for panel in panels for line in panel.lines}
    runs = {feed.name for feed in feeds}
    labels = {
        panel.title if line.label in runs else line.label.split(": ", 1)[-1] for panel in panels for line in panel.lines
    }
    return labels


def _chunks(items: list[_T], size: int) -> list[list[_T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
