"""All that is on the screen at one moment, as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from expkit.monitor.terminal.chart import CONSTANTS, draw_panel, horizontal_axis
from expkit.monitor.terminal.controls import Controls
from expkit.monitor.terminal.look import Look, plain, styled
from expkit.monitor.terminal.pages import Page, grid, turn_to
from expkit.monitor.terminal.strips import alert_lines, gauge_lines, header, help_lines, run_lines
from expkit.reading.feed import RunFeed
from expkit.reading.state import RunState

if TYPE_CHECKING:
    from expkit.monitor.monitor import TrainingMonitor

__all__ = ["SMALLEST", "draw_frame"]

#: Columns and rows below which there are only words.
SMALLEST = (40, 10)


def draw_frame(
    monitor: TrainingMonitor, controls: Controls, look: Look, size: tuple[int, int], said: str = "", keys: bool = True
) -> list[Text]:
    """Return the lines that fill a terminal.

    Args:
        monitor: the runs, as they were read.
        controls: what somebody wants to see.
        look: of the terminal.
        size: its columns and rows.
        said: what went wrong lately.
        keys: whether there is a keyboard, and a line that tells of it.
    """
    width, height = size
    states = monitor.states()
    if controls.chosen is not None and controls.chosen >= len(states):
        controls.chosen = None
    if width < SMALLEST[0] or height < SMALLEST[1]:
        return _fitted(_tiny(states, look), size)
    picked = range(len(states)) if controls.chosen is None else [controls.chosen]
    feeds, shown = [monitor.feeds[place] for place in picked], [states[place] for place in picked]
    top = _top(states, shown, controls, look, size)
    several = len(shown) > 1
    events = [(state.name if several else "", alert) for state in shown for alert in state.alerts]
    events.sort(key=lambda event: event[1].time)
    most = 1 + min(len(events), 2 if height < 30 else 4 if height < 45 else 7)
    alerts = alert_lines(events, most, width, look)
    footed = 1 if keys else 0
    room = (width, height - len(top) - len(alerts) - footed - 1)
    page = turn_to(feeds, shown, monitor.view, controls, room)
    notes = [*([said] if said else []), *page.screen.notes]
    if not notes:
        room = (width, room[1] + 1)
    if controls.over == "help":
        body, alerts, notes = help_lines(notes, width, look), [], []
    elif controls.over == "alerts":
        body, alerts = alert_lines(events, height, width, look, whole=True), []
    else:
        body = _body(page, feeds, controls, look, room)
    rows = height - footed - (1 if notes else 0) - len(alerts)
    lines = _fitted([*top, *body], (width, rows)) + alerts
    if notes:
        more = f" (+{len(notes) - 1}: ?)" if len(notes) > 1 and keys else ""
        lines.append(_cut(styled(plain(notes[0]), look.warning), width - len(more)).append(more, look.muted))
    if keys:
        lines.append(_foot(page, controls, look, width))
    return _fitted(lines, size)


def _top(
    states: Sequence[RunState], shown: Sequence[RunState], controls: Controls, look: Look, size: tuple[int, int]
) -> list[Text]:
    """Return what stands above the panels."""
    width, height = size
    if len(shown) == 1:
        top = header(shown[0], width, look, controls.chosen)
    else:
        most = max(2, (height - 12) // 3)
        top = run_lines(states, controls.chosen, most, width, look)
    few = 1 if height < 30 else 2 if height < 45 else 4
    most = {"few": few, "all": max(1, height - 16), "none": 0}[controls.gauges]
    gauges = [gauge for state in shown[:1] for gauge in state.gauges] if len(shown) == 1 else []
    return [*top, *gauge_lines(gauges, most, width, look)]


def _body(page: Page, feeds: Sequence[RunFeed], controls: Controls, look: Look, room: tuple[int, int]) -> list[Text]:
    """Return the panels, beside and below each other."""
    panels = page.screen.panels
    if not panels:
        wanted = f"no metric matches {controls.filter}" if controls.filter else "no metric yet"
        return [Text(), styled(f"  {plain(wanted)}", look.muted)]
    columns, rows = grid(*room, len(panels))
    width, height = (room[0] - (columns - 1)) // columns, room[1] // rows
    axis = horizontal_axis(panels)
    last = feeds[0].last if len(feeds) == 1 else None
    if controls.chosen is not None:
        colour = controls.chosen
        panels = [
            replace(
                panel, lines=[replace(line, colour=colour) if len(panel.lines) == 1 else line for line in panel.lines]
            )
            for panel in panels
        ]
    lines: list[Text] = []
    for start in range(0, min(len(panels), columns * rows), columns):
        row = panels[start : start + columns]
        taller = room[1] - height * rows if start == 0 else 0
        drawn = [draw_panel(panel, axis, width, height + taller, look, controls.smoothing, last) for panel in row]
        lines += [Text(" ").join(parts) for parts in zip(*drawn, strict=True)]
    return lines


def _foot(page: Page, controls: Controls, look: Look, width: int) -> Text:
    """Return the last line: what is set, and the keys that change it."""
    if controls.typing:
        foot = styled("/", Style(bold=True)).append(plain(controls.filter)).append("█", look.muted)
        return foot.append(f"  {page.metrics} metric(s): Enter keeps it, Esc drops it", look.muted)
    constant = CONSTANTS[controls.smoothing]
    said = "smooth" if width >= 100 else "avg"
    keys = {
        "q": "quit",
        "?": "help",
        "n": f"{page.number + 1}/{page.pages}",
        "/": plain(controls.filter) or "filter",
        "x": controls.along,
        "l": {None: "log:auto", True: "log", False: "linear"}[controls.logarithmic],
        "+-": f"{said} {100 * constant:g}%" if constant else f"{said} off",
        "a": "alerts",
        "p": "pause",
    }
    foot = styled(" PAUSED ", look.badge("yellow")).append(" ") if controls.paused else Text()
    for key, text in keys.items():
        foot.append(key, Style(bold=True)).append(f" {text} ", look.muted)
    return foot


def _tiny(states: Sequence[RunState], look: Look) -> list[Text]:
    """Return what can be said in hardly any room."""
    lines = []
    for state in states:
        lines.append(styled(f"{state.state.upper()} {plain(state.name)}", Style(bold=True)))
        of = f" of {state.total_steps:,}" if state.total_steps else ""
        lines.append(styled(f"step {state.step:,}{of}" if state.step is not None else "no record yet"))
    return [*lines, styled(f"panels need {SMALLEST[0]} x {SMALLEST[1]}; q quits", look.muted)]


def _cut(line: Text, width: int) -> Text:
    line.truncate(max(width, 0), overflow="ellipsis")
    return line


def _fitted(lines: Sequence[Text], size: tuple[int, int]) -> list[Text]:
    """Return exactly so many lines, none of them wider."""
    width, height = size
    filled = [*lines[:height], *(Text() for _ in range(height - len(lines)))]
    return [_cut(line, width) for line in filled]
