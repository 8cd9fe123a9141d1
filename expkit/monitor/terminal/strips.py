"""What stands around the panels: how runs stand, the machine's bars, alerts, keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from textwrap import wrap

from rich.style import Style
from rich.text import Text

from expkit.monitor.terminal.controls import HELP
from expkit.monitor.terminal.look import Look, plain, shortened, styled
from expkit.monitor.terminal.title import swatch
from expkit.plots.panels import COLOURS, style_of_run
from expkit.reading.state import AlertLine, Gauge, RunState
from expkit.severity import Severity

__all__ = ["alert_lines", "gauge_lines", "header", "help_lines", "run_lines"]

_BADGES = {
    "running": "green", "starting": "cyan", "finished": "bright_blue", "stalled": "yellow", "unknown": "white",
    "interrupted": "magenta", "preempted": "magenta", "crashed": "bright_red", "failed": "bright_red",
    "gone": "bright_red",
}  # fmt: skip
_BAR, _GAUGE = 24, 10  # cells
_GAUGE_WIDTH = 38
_SIGNS = "✕ not finite   ┆ a warning or critical event   faint: every value, line: moving average"


def header(state: RunState, width: int, look: Look, colour: int | None = None) -> list[Text]:
    """Return two lines or more: badge, name, what there is to say of that; step, speed, time to the end."""
    first = styled(f" {state.state.upper()} ", _badge(state, look))
    first.append(" ● " if colour is not None else " ", look.line(colour or 0))
    first.append(plain(state.name), Style(bold=True))
    lines = [first, _progress(state, look, width)]
    if state.text:
        style = look.warning if state.state in ("stalled", "crashed", "failed", "gone") else look.muted
        said = plain(state.text)
        if first.cell_len + 2 + len(said) <= width:
            first.append(f"  {said}", style)
        else:
            lines += [styled(part, style) for part in wrap(said, width)[:2]]
    return lines


def run_lines(states: Sequence[RunState], chosen: int | None, most: int, width: int, look: Look) -> list[Text]:
    """Return a line for each of several runs, in their colours; of many, those around the chosen one."""
    start = min(max(0, (chosen or 0) - most // 2), max(0, len(states) - most))
    shown = list(enumerate(states))[start : start + most]
    widest = min(max(len(state.name) for state in states), max(16, width - 46))
    lines = []
    for number, state in shown:
        line = styled("▸" if number == chosen else " ")
        line.append(f"{swatch(style_of_run(number)):<{2 if len(states) > COLOURS else 1}} ", look.line(number))
        name = styled(shortened(plain(state.name), widest), Style(bold=number == chosen))
        name.truncate(widest, overflow="ellipsis", pad=True)
        line.append_text(name)
        line.append(f"  {state.state:<11}", _word(state, look))
        parts = [
            f"{state.step:>9,}" if state.step is not None else " " * 9,
            f"{_percent(state):>4}",
            f"{state.steps_per_sec:,.3g} it/s" if state.steps_per_sec is not None else "",
            plain(state.text),
        ]
        line.append(" ".join(part for part in parts if part), look.muted)
        lines.append(line)
    hidden = len(states) - len(shown)
    if hidden:
        lines[-1] = styled(f"   … and {hidden + 1} more: r goes on, a number chooses", look.muted)
    return lines


def gauge_lines(gauges: Sequence[Gauge], most: int, width: int, look: Look) -> list[Text]:
    """Return bars of the machine, in as many columns as there is room for; at most so many lines."""
    if not gauges or most < 1:
        return []
    columns = max(1, width // _GAUGE_WIDTH)
    each = width // columns
    order = sorted(gauges, key=lambda gauge: gauge.name.startswith("gpu") and gauge.name.endswith("memory"))
    shown = list(order)[: columns * most]
    if len(shown) == len(gauges):
        shown = list(gauges)  # GPU by GPU
    widest = max(len(gauge.name) for gauge in shown)
    cells = []
    for gauge in shown:
        full = round(gauge.fraction * _GAUGE)
        style = look.alert if gauge.fraction >= 0.95 and "memory" in gauge.name else look.line(2)
        cell = styled(f"{plain(gauge.name):<{widest}} ", look.muted)
        cell.append("█" * full, style).append("░" * (_GAUGE - full), look.muted)
        said = f" {plain(gauge.text)}"
        cell.append(said if cell.cell_len + len(said) < each else said.partition(",")[0])
        cell.truncate(each - 1, overflow="ellipsis", pad=True)
        cells.append(cell.append(" "))
    lines = [Text().join(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    if len(shown) < len(gauges):
        more = styled(f"+{len(gauges) - len(shown)} (g)", look.muted)
        lines[-1].truncate(width - more.cell_len - 1, overflow="ellipsis", pad=True)
        lines[-1].append(" ").append_text(more)
    return lines


def alert_lines(
    alerts: Sequence[tuple[str, AlertLine]], most: int, width: int, look: Look, whole: bool = False
) -> list[Text]:
    """Return alerts, newest first: severity, step, rule, what was seen, its values.

    Args:
        alerts: (run or "", alert), oldest first.
        most: lines, the heading among them.
        width: in cells.
        look: of the terminal.
        whole: whether a long one goes on in the next line; else it is cut.
    """
    count = len(alerts)
    said = (
        f"─ {count:,} alert{'' if count == 1 else 's'}{', newest first' if count > 1 else ''} "
        if count
        else "─ no alerts "
    )
    lines = [styled(said + "─" * max(0, width - len(said)), look.muted)]
    for run, alert in list(reversed(alerts))[: most - 1]:
        serious = alert.severity != Severity.INFO
        style = look.alert if alert.severity == Severity.CRITICAL else look.warning if serious else look.muted
        line = styled(f"{alert.severity:<8} ", style)
        line.append(f"{datetime.fromtimestamp(alert.time):%H:%M:%S} " if alert.time else "", look.muted)
        line.append(f"step {alert.step:,} ")
        line.append(f"{shortened(plain(run), width // 4)} " if run else "", look.muted)
        line.append(f"{plain(alert.rule)} ", Style(bold=True))
        line.append(plain(alert.message))
        values = "  ".join(f"{name}={_value(value)}" for name, value in alert.values.items())
        line.append(f"  {plain(values)}" if values else "", look.muted)
        lines += line.divide(range(width, len(line), width)) if whole else [line]
    return lines


def help_lines(notes: Sequence[str], width: int, look: Look) -> list[Text]:
    """Return what keys do, what signs mean, and all that there is to say."""
    lines, left = [], 22
    for keys, text in [*HELP.items(), ("", _SIGNS)]:
        for number, part in enumerate(wrap(text, max(width - left, 16))):
            lines.append(styled(f"{'' if number else keys:>{left - 2}}  ", Style(bold=True)).append(part))
    for note in notes:
        lines += [Text(), *(styled(part, look.warning) for part in wrap(plain(note), max(width, 16)))]
    return lines


def _progress(state: RunState, look: Look, width: int) -> Text:
    """Return how far a run is; when it ends twice, as a span and in words, only where there is room."""
    parts = []
    if state.step is not None and state.total_steps:
        fraction = min(state.step / state.total_steps, 1.0)
        bar_width = _BAR if width >= 100 else _BAR // 2
        full = round(bar_width * fraction)
        bar = styled("━" * full, look.line(0)).append("─" * (bar_width - full), look.muted)
        parts.append(bar.append(f" {_percent(state)}"))
    of = f" of {state.total_steps:,}" if state.total_steps else ""
    said = [
        f"step {state.step:,}{of}" if state.step is not None else "no record yet",
        f"epoch {state.epoch:,.4g}" if state.epoch is not None else "",
        f"{state.steps_per_sec:,.3g} it/s" if state.steps_per_sec is not None else "",
        f"ETA {timedelta(seconds=round(state.eta_seconds))}" if state.eta_seconds is not None else "",
    ]
    line = Text("  ").join([part for part in (*parts, *map(Text, said)) if part])
    words = f"  {state.eta}" if state.eta else ""
    if line.cell_len + len(words) > width and words.count(";") == 0:
        words = ""
    return line.append(words)


def _badge(state: RunState, look: Look) -> Style:
    return look.badge(_BADGES.get(state.state, "white"))


def _word(state: RunState, look: Look) -> Style:
    return Style() if look.colours == "none" else Style(color=_BADGES.get(state.state, "white"))


def _percent(state: RunState) -> str:
    if state.step is None or not state.total_steps:
        return ""
    return f"{100 * min(state.step / state.total_steps, 1.0):.0f} %"


def _value(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
