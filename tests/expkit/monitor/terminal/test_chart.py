"""One panel in a terminal: where curves are, what stands around them, in whatever the terminal can show."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from expkit.monitor.terminal.chart import CONSTANTS, draw_panel, horizontal_axis
from expkit.monitor.terminal.look import Look
from expkit.monitor.terminal.ticks import linear_ticks, log_ticks, tick_labels
from expkit.plots.curve import Curve
from expkit.plots.panels import Line, Panel

PLAIN = Look(unicode=False, movable=False)
BRAILLE = Look(colours="truecolor")


def panel(*lines: list[float], title: str = "loss", **more: Any) -> Panel:
    names = ["train_loss", "val_loss", "other_loss"]
    return Panel(
        title,
        [
            Line(name, Curve(range(len(ys)), ys), place)
            for place, (name, ys) in enumerate(zip(names, lines, strict=False))
        ],
        **more,
    )


def drawn(shown: Panel, width: int = 40, height: int = 10, look: Look = BRAILLE, smoothing: int = 2) -> list[str]:
    last = {line.label: line.curve.line()[1][-1] for line in shown.lines if line.curve.count}
    lines = draw_panel(shown, horizontal_axis([shown]), width, height, look, smoothing, last)
    assert len(lines) == height and {line.cell_len for line in lines} == {width}
    return [look.written(line.plain) for line in lines]


def dots(lines: list[str]) -> list[str]:
    """Return the canvas alone."""
    return [line[max(line.find("│"), line.find("┤")) + 1 :] for line in lines[1:-2]]


def test_a_falling_line_falls_from_corner_to_corner_with_its_numbers() -> None:
    lines = drawn(panel([100.0 - step for step in range(101)], title="falling"))
    canvas = dots(lines)
    assert canvas[0][0] != " " and canvas[0][-1] == " "
    assert canvas[-1][-1] != " " and canvas[-1][0] == " "
    assert lines[0].split() == ["falling", "0"]
    assert "100┤" in lines[1] and "0┤" in lines[-3]
    assert "101 of 101 points" in lines[-2] and lines[-1].split() == ["0", "50", "100"]


def test_a_spike_of_one_step_in_a_million_values_is_seen() -> None:
    values = [1.0] * 100_000
    values[70_000] = 50.0
    lines = drawn(panel(values, title="flat"), width=60)
    column = dots(lines)[0].rstrip()
    assert len(column.strip()) == 1 and 0.6 < len(column) / 55 < 0.8
    assert "of 100,000 points" in lines[-2]


def test_values_that_are_not_finite_are_marked_and_counted() -> None:
    values = [3.0, 2.0, math.nan, math.inf, 1.0, -math.inf]
    lines = drawn(panel(values))
    assert "✕ 3 not finite" in lines[0]
    assert dots(lines)[0].count("✕") == 3
    assert "not finite" in drawn(panel([math.nan] * 5))[0]


def test_where_something_happened_a_line_goes_down() -> None:
    lines = drawn(panel([1.0, 1.0, 1.0, 5.0], marks=[2.0]))
    assert sum(row.count("┆") for row in dots(lines)) >= 5


@pytest.mark.parametrize("look", [PLAIN, Look(unicode=False)])
def test_ascii_tells_lines_apart_by_their_signs(look: Look) -> None:
    lines = drawn(panel([5.0, 4.0, 3.0], [6.0, 6.0, 6.0]), look=look)
    assert all(line.isascii() for line in lines)
    assert "o train_loss 3" in lines[0] and "x val_loss 6" in lines[0]
    canvas = "".join(lines[1:-2])
    assert "o" in canvas and "x" in canvas


def test_without_colours_lines_are_told_apart_though_there_is_braille() -> None:
    several = drawn(panel([5.0, 4.0], [6.0, 6.0]), look=Look())
    assert "o" in "".join(dots(several)) and "x" in "".join(dots(several))
    alone = "".join(dots(drawn(panel([5.0] * 10 + [4.0] * 10), look=Look())))
    assert set(alone) - {" "} and all(0x2800 <= ord(sign) < 0x2900 for sign in alone if sign != " ")


def test_lines_of_one_colour_are_told_apart_by_their_gaps() -> None:
    styles = []
    for dash in range(4):
        line = Line("loss", Curve(range(200), [1.0 + step for step in range(200)]), 0, dash)
        styles.append("".join(dots(drawn(Panel("loss", [line])))))
    assert len({style.replace(" ", "") for style in styles}) == 4
    whole, dashed, dotted, both = (sum(sign != " " for sign in style) for style in styles)
    assert dotted < both < whole and dotted < dashed < whole
    assert styles[0] == "".join(dots(drawn(Panel("loss", [Line("loss", line.curve, 7)]))))
    beyond = Line("loss", line.curve, 8)
    assert "".join(dots(drawn(Panel("loss", [beyond])))) == styles[1], "after the last colour they begin again"


@pytest.mark.parametrize("place", range(0, 400, 37))
def test_no_spike_is_lost_in_a_gap(place: int) -> None:
    values = [1.0] * 400
    values[place] = 50.0
    rows = dots(drawn(Panel("loss", [Line("loss", Curve(range(400), values), 0, 2)]), smoothing=0))
    assert sum(row.strip() != "" for row in rows[:-1]) >= len(rows) // 2 - 1


def test_an_average_over_noise_and_more_or_less_of_it() -> None:
    values = [10 + (-1) ** step * 5.0 for step in range(400)]
    shown = panel(values, title="noise")
    styles = []
    for smoothing in range(len(CONSTANTS)):
        lines = draw_panel(shown, horizontal_axis([shown]), 40, 10, BRAILLE, smoothing, {})
        styles.append({str(span.style) for line in lines[1:-2] for span in line.spans})
    raw, average = str(BRAILLE.line(0)), str(BRAILLE.faint(0))
    assert average not in styles[0] and raw in styles[0], "no average"
    assert all({raw, average} <= found for found in styles[1:])


def test_a_logarithmic_axis_has_decades_and_never_a_zero() -> None:
    lines = drawn(panel([10.0**-step for step in range(5)]))
    assert "1.0000┤" in lines[1] or "1┤" in lines[1]
    assert any("0.01" in line for line in lines)
    assert "0┤" in "".join(drawn(panel([0.0, 1.0, 100.0], logarithmic=True)))


def test_counts_are_steps_with_whole_numbers() -> None:
    lines = drawn(panel([1.0, 1.0, 3.0, 3.0], title="clusters", stepped=True))
    assert [line.split("┤")[0].strip() for line in lines if "┤" in line] == ["3", "2", "1"]


def test_long_names_and_many_lines_are_cut_not_wrapped() -> None:
    shown = panel([1.0, 2.0], title="a" * 90)
    assert "…" in drawn(shown)[0]
    drawn(panel([1.0, 2.0], [2.0, 3.0], [3.0, 4.0], title="b" * 90))
    wide = panel([1.0, 2.0], title="損失" * 30)
    drawn(wide)


_floats = st.floats(allow_nan=True, allow_infinity=True, width=64)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(_floats, max_size=20), min_size=0, max_size=3),
    st.integers(12, 90),
    st.integers(4, 30),
    st.sampled_from([PLAIN, BRAILLE, Look()]),
    st.sampled_from([None, True, False]),
)
@example([[2.15e205]], 12, 4, PLAIN, True)
@example([[5e-324, 1e-320]], 40, 10, BRAILLE, True)
@example([[-1.7e308, 1.7e308]], 40, 10, BRAILLE, None)
def test_whatever_the_values_there_is_a_picture_of_the_size_that_was_asked_for(
    lines: list[list[float]], width: int, height: int, look: Look, logarithmic: bool | None
) -> None:
    drawn(panel(*lines, logarithmic=logarithmic), width, height, look)


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12), st.integers(1, 12))
def test_ticks_are_few_inside_the_axis_and_told_apart(low: float, span: float, most: int) -> None:
    high = low + span
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return
    ticks = linear_ticks(low, high, most)
    assert len(ticks) <= most
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in ticks)
    assert len(tick_labels(ticks)) == len(ticks)


def test_ticks_read_well() -> None:
    assert tick_labels(linear_ticks(0, 1000, 4)) == ["0", "500", "1,000"]
    assert tick_labels(linear_ticks(0.0, 0.1, 5)) == ["0.000", "0.025", "0.050", "0.075", "0.100"]
    assert tick_labels(log_ticks(1e-8, 1, 4))[0] == "1e-8"
    assert tick_labels(linear_ticks(0, 3, 9, whole=True)) == ["0", "1", "2", "3"]
    assert tick_labels([-0.0, 1.0]) == ["0", "1"]
