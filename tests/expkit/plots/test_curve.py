"""A curve keeps what a picture can show, in bounded memory."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from expkit.plots.curve import Curve


def wave(count: int, noise: float) -> list[float]:
    generator = random.Random(0)
    return [math.exp(-3 * index / count) * (1 + generator.gauss(0, noise)) for index in range(count)]


def test_a_short_curve_is_itself() -> None:
    curve = Curve([1, 2, 5], [0.5, 0.25, 1.0])
    assert curve.line() == ([1, 2, 5], [0.5, 0.25, 1.0])
    assert curve.bounds() == (0.25, 1.0)


def test_spikes_stay_when_a_long_curve_is_thinned() -> None:
    values = [1.0] * 100_000
    values[12_345], values[67_890] = 50.0, -50.0
    steps, thin = Curve(range(100_000), values).line()
    assert len(thin) <= 2000
    assert steps[thin.index(50.0)] == 12_345
    assert steps[thin.index(-50.0)] == 67_890
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 12_345])
def test_what_comes_bit_by_bit_gives_the_same_curve(count: int) -> None:
    values = wave(count, 0.3)
    whole, grown = Curve(range(count), values, bins=100), Curve(bins=100)
    for start in range(0, count, 7):
        grown.extend(range(start, min(start + 7, count)), values[start : start + 7])
    assert grown.line() == whole.line()
    assert grown.average() == whole.average()
    assert (grown.line()[0][-1], whole.bounds()) == (pytest.approx(count - 1, abs=200), (min(values), max(values)))


def test_memory_is_bounded() -> None:
    curve = Curve(bins=100)
    for start in range(0, 50_000, 1000):
        curve.extend(range(start, start + 1000), wave(1000, 0.1))
        assert len(curve.line()[0]) <= 202


@pytest.mark.parametrize("count", [500, 50_000])
def test_the_average_follows_the_curve_from_its_first_value_on(count: int) -> None:
    values = wave(count, 0.2)
    steps, averages = Curve(range(count), values).average()
    assert averages[0] == pytest.approx(values[0], rel=0.3)
    true = [math.exp(-3 * step / count) for step in steps]
    off = [abs(found / wanted - 1) for found, wanted in zip(averages[10:], true[10:], strict=True)]
    assert sum(off) / len(off) < 0.1, "the noise is 0.2"
    assert steps == sorted(steps)


def test_the_average_does_not_lag_behind_a_steep_beginning() -> None:
    values = [10 * math.exp(-step / 20) + 1 for step in range(700)]
    averages = Curve(range(700), values).average()[1]
    assert max(average / value for average, value in zip(averages, values[::2], strict=True)) < 1.4


@pytest.mark.parametrize(
    ("shape", "noisy"),
    [
        (lambda x: math.exp(-3 * x), False),
        (lambda x: 1.0, False),
        (lambda x: math.sin(10 * x), False),
        (lambda x: 1.0 - (x > 0.5), False),
        (lambda x: math.exp(-3 * x) + 0.0001 * math.sin(1e7 * x * x), False),
        (lambda x: math.exp(-3 * x) + 0.1 * math.sin(1e7 * x * x), True),
    ],
    ids=["smooth", "constant", "waves", "a step", "noise that nobody sees", "noise"],
)
@pytest.mark.parametrize("count", [300, 30_000])
def test_a_curve_is_noisy_if_one_would_see_it(shape: Callable[[float], float], noisy: bool, count: int) -> None:
    assert Curve(range(count), [shape(step / count) for step in range(count)]).noisy() is noisy


def test_what_is_small_is_seen_on_a_logarithmic_axis() -> None:
    values = [math.exp(-10 * step / 500) * (1 + 0.3 * (-1) ** step) for step in range(500)]
    values[0] = 100.0
    curve = Curve(range(500), values)
    assert not curve.noisy()
    assert curve.noisy(logarithmic=True)


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    curve = Curve([1, 2, 3, 4], [0.5, math.nan, math.inf, 0.25])
    curve.extend([5], [-math.inf])
    assert curve.line() == ([1, 4], [0.5, 0.25])
    assert (curve.nonfinite, curve.first_nonfinite) == (3, 2)
    assert curve.average()[0] == [1, 4]


@pytest.mark.parametrize("values", [[], [math.nan]])
def test_a_curve_without_a_finite_value_has_no_bounds(values: list[float]) -> None:
    curve = Curve(range(len(values)), values)
    assert (curve.bounds(), curve.line(), curve.average(), curve.noisy()) == (None, ([], []), ([], []), False)


@pytest.mark.parametrize("count", [1, 2, 99, 5000, 12_345])
def test_a_thinned_curve_has_the_same_extremes_and_fewer_points(count: int) -> None:
    curve = Curve(range(count), wave(count, 0.3))
    thin = curve.thinned(40)
    assert len(thin.average()[0]) <= 40
    assert (thin.bounds(), thin.ends(), thin.count) == (curve.bounds(), curve.ends(), count)
    points = set(zip(*curve.line(), strict=True))
    assert points.issuperset(zip(*thin.line(), strict=True)), "nothing is invented"


def test_a_part_of_a_curve_keeps_a_neighbour_on_each_side() -> None:
    curve = Curve(range(10), range(10))
    part = curve.thinned(100, between=(3.5, 6))
    assert (part.line()[0], part.ends()) == ([3, 4, 5, 6, 7], (3.5, 6))
    assert curve.thinned(100, between=(20, 30)).line()[0] == [9]


def test_a_curve_over_something_else_than_steps() -> None:
    curve = Curve([10, 20, 30], [1.0, math.nan, 3.0])
    made = curve.over(lambda steps: steps / 10)
    assert made.line() == ([1, 3], [1.0, 3.0])
    assert made.nonfinite_steps == [2]
    assert curve.line()[0] == [10, 30], "the curve itself is as it was"


def test_where_values_were_not_finite_is_kept_evenly_in_bounded_memory() -> None:
    curve = Curve()
    for start in range(0, 100_000, 1000):
        curve.extend(range(start, start + 1000), [math.nan] * 1000)
    steps = curve.nonfinite_steps
    assert curve.nonfinite == 100_000
    assert len(steps) <= 256
    gaps = [after - before for before, after in pairwise(steps)]
    assert (steps[0], min(gaps), max(gaps)) == (0, gaps[0], gaps[0])
    assert curve.ends() == (0, 99_999)


@pytest.mark.parametrize("count", [3, 12_345])
def test_a_curve_that_was_kept_in_a_file_goes_on_as_if_it_never_had_been(count: int) -> None:
    values = [*wave(count, 0.3), math.nan]
    curve = Curve(range(count + 1), values, bins=100)
    again = Curve.from_state(*curve.state())
    for each in (curve, again):
        each.extend(range(count + 1, count + 500), wave(499, 0.1))
    assert again.line() == curve.line()
    assert (again.count, again.nonfinite_steps) == (count + 499, [count])


def test_arrays_give_the_same_curve_as_lists() -> None:
    values = wave(5000, 0.3)
    lists, arrays = Curve(range(5000), values), Curve()
    for start in range(0, 5000, 777):
        arrays.extend(np.arange(start, min(start + 777, 5000), dtype=float), np.array(values[start : start + 777]))
    assert arrays.line() == lists.line()
    assert arrays.average() == lists.average()
