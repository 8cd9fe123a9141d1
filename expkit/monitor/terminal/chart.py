"""One panel in a terminal: curves of braille dots on axes. Where only ASCII can be shown, of characters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray
from rich.style import Style
from rich.text import Text

from expkit.monitor.terminal.look import Look, plain, styled
from expkit.monitor.terminal.ticks import linear_ticks, log_ticks, tick_labels
from expkit.monitor.terminal.title import SIGNS, signed, title_line
from expkit.plots.panels import Panel

__all__ = ["CONSTANTS", "Axis", "draw_panel", "horizontal_axis"]

#: Time constants of the average, as fractions of a curve; 0 is none. The middle one is where it is telling only.
CONSTANTS = (0.0, 0.005, 0.015, 0.05, 0.15)
_USUAL = 2

_VALUES = "."
#: Line styles: which cells of a line are drawn.
_DASHES = ("", "1110", "10", "111010")
_CROWDED = 8  # lines
_FEW = 5  # values, which get a sign each
_LARGEST = 1e300
_CELL = re.compile(r"(?:\x1b\[38;2;(\d+);0;0m)?(.)(?:\x1b\[0m)?")

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Axis:
    """The horizontal axis of all panels.

    Attributes:
        low, high: its ends.
        unit: what stands beside its numbers.
        whole: whether only whole numbers count.
    """

    low: float
    high: float
    unit: str = ""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One line on the canvas: where it is, how it looks, which of its cells are drawn (all, if none are named)."""

    x: _Array
    y: _Array
    style: Style
    sign: str
    dash: str = ""


def horizontal_axis(panels: Sequence[Panel]) -> Axis:
    """Return the same axis for all panels of a screen: what happened at one step is seen at one place."""
    ends = [found for panel in panels for line in panel.lines if (found := line.curve.ends()) is not None]
    values = [value for pair in ends for value in pair if math.isfinite(value)] or [0.0]
    low, high = min(values), max(values)
    along = panels[0].along if panels else "step"
    return Axis(low, high if high > low else low + 1, along.partition(" ")[0], whole=along == "step")


def draw_panel(
    panel: Panel, axis: Axis, width: int, height: int, look: Look, smoothing: int, last: Mapping[str, float] | None
) -> list[Text]:
    """Return a panel as so many lines of so many cells.

    Args:
        panel: what to draw.
        axis: the horizontal one.
        width, height: in cells.
        look: of the terminal.
        smoothing: place in `CONSTANTS`.
        last: name -> last value, for the title; None if the lines are runs.
    """
    logarithmic = panel.is_logarithmic()
    bounds = panel.bounds()
    shown, points, total = _lines(panel, look, smoothing, logarithmic)
    rows = max(1, height - 3)
    low, high = _vertical(bounds, logarithmic)
    ticks = _vertical_ticks(panel, low, high, rows, logarithmic) if bounds is not None else {}
    gutter = max((len(label) for label in ticks.values()), default=2)
    columns = max(4, width - gutter - 1)
    with np.errstate(all="ignore"):  # at the ends of what floats hold, say: a warning would tear the screen
        cells = _canvas(shown, axis, (low, high), columns, rows)
    _overlay_marks(cells, panel, axis, look)
    if not shown:
        _write_centred(cells, plain(panel.remark), look.muted)
    lines = [title_line(panel, width, look, last)]
    for row, made in enumerate(cells):
        line = styled(f"{ticks.get(row, ''):>{gutter}}", look.muted)
        line.append("┤" if row in ticks else "│", look.muted)
        for style, run in groupby(made, key=lambda cell: cell[1]):
            line.append("".join(sign for sign, _ in run), style)
        lines.append(line)
    said = f" {points:,} of {total:,} points" if total else ""
    lines += _below(axis, gutter, columns, said if len(said) < columns else "", look)
    for line in lines:
        line.truncate(width, overflow="ellipsis", pad=True)
    return lines[:height]


def _lines(panel: Panel, look: Look, smoothing: int, logarithmic: bool) -> tuple[list[_Drawn], int, int]:
    """Return what is drawn, the values behind averages first, how many points, and how many values they stand for."""
    lines = [line for line in panel.lines if line.curve.bounds() is not None]
    signs = signed(look, len(lines))
    back, front, points, total = [], [], 0, 0
    for number, line in enumerate(lines):
        x, y = line.curve.line()
        points, total = points + len(y), total + line.curve.count
        style = look.line(line.colour)
        sign = SIGNS[number % len(SIGNS)] if signs else ""
        wanted = line.curve.noisy(logarithmic) if smoothing == _USUAL else smoothing > 0
        if panel.stepped:
            x, y = [value for value in x for _ in (0, 1)][1:], [value for value in y for _ in (0, 1)][:-1]
        elif wanted and len(y) > 1:
            if len(lines) <= _CROWDED:
                back.append(_drawn(x, y, look.faint(line.colour), _VALUES, logarithmic))
            x, y = line.curve.average(CONSTANTS[smoothing])
        dash = "" if signs else _DASHES[line.style % len(_DASHES)]
        front.append(replace(_drawn(x, y, style, sign, logarithmic), dash=dash))
    return [each for each in (*back, *front) if len(each.x)], points, total


def _drawn(x: Sequence[float], y: Sequence[float], style: Style, sign: str, logarithmic: bool) -> _Drawn:
    across, values = np.asarray(x, float), np.clip(np.asarray(y, float), -_LARGEST, _LARGEST)
    known = np.isfinite(across)
    across, values = across[known], values[known]
    return _Drawn(across, np.log10(values) if logarithmic else values, style, sign)


def _vertical(bounds: tuple[float, float] | None, logarithmic: bool) -> tuple[float, float]:
    """Return the ends of the vertical axis; of a logarithmic one, the powers of 10."""
    low, high = (min(max(end, -_LARGEST), _LARGEST) for end in bounds or (0.0, 1.0))
    if logarithmic:
        low, high = (math.log10(max(end, 1 / _LARGEST)) for end in (low, high))
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1 / _LARGEST):  # one value
        room = 0.5 if logarithmic or abs(high) <= 1 / _LARGEST else 0.5 * abs(high)
        return low - room, high + room
    return low, high


def _vertical_ticks(panel: Panel, low: float, high: float, rows: int, logarithmic: bool) -> dict[int, str]:
    """Return row -> what stands there."""
    most = max(2, (rows + 1) // 2)
    if logarithmic:
        ticks = log_ticks(10.0**low, 10.0**high, most)
        places = [math.log10(tick) for tick in ticks]
    else:
        places = ticks = linear_ticks(low, high, most, whole=panel.stepped)
    found: dict[int, str] = {}
    for place, label in zip(places, tick_labels(ticks), strict=True):
        found.setdefault(rows - 1 - _cell(place, low, high, rows), label)
    return found


def _cell(value: float, low: float, high: float, count: int) -> int:
    return min(max(int((value - low) / (high - low) * count), 0), count - 1)


def _canvas(
    shown: Sequence[_Drawn], axis: Axis, vertical: tuple[float, float], columns: int, rows: int
) -> list[list[tuple[str, Style | None]]]:
    """Return rows of cells: a sign, and its style."""
    if not shown:
        return [[(" ", None)] * columns for _ in range(rows)]
    from uniplot import plot_to_string

    signs = any(each.sign not in ("", _VALUES) for each in shown)
    drawn = plot_to_string(
        xs=[each.x for each in shown],
        ys=[each.y for each in shown],
        lines=True,
        width=columns,
        height=rows,
        x_min=axis.low,
        x_max=axis.high,
        y_min=vertical[0],
        y_max=vertical[1],
        x_labels=False,
        y_labels=False,
        x_gridlines=[],
        y_gridlines=[],
        color=[(number, 0, 0) for number in range(len(shown))],  # tells whose a cell is
        character_set="ascii" if signs else "braille",
        force_ascii_characters=[each.sign or _VALUES for each in shown],
    )
    owned: list[list[tuple[str, _Drawn | None]]] = []
    for row in drawn.split("\n")[1 : rows + 1]:  # without its frame
        found = [(sign, shown[int(whose)] if whose else None) for whose, sign in _CELL.findall(row)]
        owned.append(found[1 : columns + 1])
    cells = _dashed(owned)
    for each in shown:
        if len(each.x) <= _FEW:
            for x, y in zip(each.x.tolist(), each.y.tolist(), strict=True):
                place = rows - 1 - _cell(y, *vertical, rows)
                cells[place][_cell(x, axis.low, axis.high, columns)] = (each.sign or "•", each.style)
    return cells


def _dashed(owned: Sequence[Sequence[tuple[str, _Drawn | None]]]) -> list[list[tuple[str, Style | None]]]:
    """Return signs and styles of cells, of which it is known whose they are: lines that are not whole have gaps.

    Gaps go along the columns; in a column where a line goes up or down along the rows, so that no spike is lost.
    """
    cells = [[(sign, line.style if line is not None else None) for sign, line in row] for row in owned]
    for column in range(len(owned[0])):
        rows: dict[int, list[int]] = {}
        for row, made in enumerate(owned):
            line = made[column][1]
            if line is not None and line.dash:
                rows.setdefault(id(line), []).append(row)
        for found in rows.values():
            line = owned[found[0]][column][1]
            for row in found:
                if line is not None and line.dash[(row if len(found) > 2 else column) % len(line.dash)] == "0":
                    cells[row][column] = (" ", None)
    return cells


def _overlay_marks(cells: list[list[tuple[str, Style | None]]], panel: Panel, axis: Axis, look: Look) -> None:
    """Show where something happened, behind the lines, and where values were not finite, at the upper edge."""
    columns = len(cells[0])
    for mark in panel.marks:
        if axis.low <= mark <= axis.high:
            column = _cell(mark, axis.low, axis.high, columns)
            for row in cells:
                if row[column][0] == " ":
                    row[column] = ("┆", look.alert + Style(bold=False, dim=True))
    for line in panel.lines:
        for step in line.curve.nonfinite_steps:
            if math.isfinite(step):
                cells[0][_cell(step, axis.low, axis.high, columns)] = ("✕", look.alert)


def _write_centred(cells: list[list[tuple[str, Style | None]]], text: str, style: Style) -> None:
    columns = len(cells[0])
    lines = wrap(text, max(columns - 2, 1))[: len(cells)]
    for number, line in enumerate(lines, (len(cells) - len(lines)) // 2):
        start = (columns - len(line)) // 2
        cells[number][start : start + len(line)] = [(sign, style) for sign in line]


def _below(axis: Axis, gutter: int, columns: int, said: str, look: Look) -> list[Text]:
    """Return the horizontal axis, and its numbers."""
    ticks = linear_ticks(axis.low, axis.high, max(2, columns // 12), axis.whole)
    labels = tick_labels(ticks)
    edge, numbers = ["─"] * (columns - len(said)), [" "] * (columns + gutter + 1)
    for tick, label in zip(ticks, labels, strict=True):
        place = _cell(tick, axis.low, axis.high, columns)
        if place < len(edge):
            edge[place] = "┴"
        start = min(gutter + 1 + place - len(label) // 2, len(numbers) - len(label))
        if all(sign == " " for sign in numbers[max(0, start - 1) : start + len(label) + 1]):
            numbers[start : start + len(label)] = label
    written = "".join(numbers)
    if len(written) - len(written.rstrip()) > len(axis.unit):
        written = f"{written.rstrip()} {axis.unit}"
    elif len(written) - len(written.lstrip()) > len(axis.unit):
        written = axis.unit + written[len(axis.unit) :]
    return [styled(" " * gutter + "└" + "".join(edge) + said, look.muted), styled(written, look.muted)]
