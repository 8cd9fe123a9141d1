"""Estimates and tests against scipy.stats and pandas' figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import interpolate, stats

from expkit.comparison.alignment import band, values_at
from expkit.comparison.statistics import difference, estimate

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_an_estimate_is_scipys(n: int) -> None:
    values = RANDOM.normal(3, 2, n)
    found = estimate([*values, math.nan])
    assert found is not None
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    expected = (n, values.mean(), values.std(ddof=1), low, high, values.min(), values.max(), np.median(values))
    assert (found.n, found.mean, found.std, found.low, found.high, found.min, found.max, found.median) == pytest.approx(
        expected, rel=1e-9
    )


def test_of_one_value_there_is_no_deviation_and_of_none_nothing() -> None:
    alone = estimate([4.0])
    assert alone is not None
    assert (alone.mean, alone.std, alone.low, alone.high) == (4.0, None, None, None)
    assert estimate([math.nan]) is None


def test_matched_seeds_are_scipys_paired_test() -> None:
    before = {seed: RANDOM.normal() for seed in range(6)}
    after = {seed: before[seed] + RANDOM.normal(0.3, 0.1) for seed in range(5, -1, -1)} | {99: 1e9}
    found = difference(before, after)
    expected = stats.ttest_rel([after[seed] for seed in range(6)], [before[seed] for seed in range(6)])
    interval = expected.confidence_interval(0.95)
    assert found is not None
    assert found.paired and found.n == 6
    assert (found.t, found.p, found.low, found.high) == pytest.approx(
        (expected.statistic, expected.pvalue, interval.low, interval.high), rel=1e-8
    )


def test_other_seeds_are_scipys_welch_test() -> None:
    before = {seed: RANDOM.normal() for seed in range(4)}
    after = {seed: RANDOM.normal(1, 3) for seed in range(10, 17)}
    found = difference(before, after)
    expected = stats.ttest_ind(list(after.values()), list(before.values()), equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found is not None
    assert not found.paired
    assert (found.t, found.p, found.low, found.high) == pytest.approx(
        (expected.statistic, expected.pvalue, interval.low, interval.high), rel=1e-8
    )


def test_pairs_that_differ_by_the_same_are_certain_and_equal_ones_are_not_different() -> None:
    shifted = difference({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0})
    assert shifted is not None
    assert (shifted.mean, shifted.t, shifted.p) == (1.0, math.inf, 0.0)
    same = difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert same is not None
    assert (same.mean, same.p) == (0.0, 1.0)


@pytest.mark.filterwarnings("error")
def test_values_that_are_the_same_deviate_by_nothing_and_huge_ones_break_nothing() -> None:
    same = estimate([0.1] * 3)
    assert same is not None
    assert (same.mean, same.std, same.low, same.high) == (0.1, 0.0, 0.1, 0.1)
    huge = estimate([1e300, -2e300])
    assert huge is not None
    assert huge.min == -2e300 and not math.isfinite(huge.high or 0)
    for second in ({0: -1e308, 1: 1e308}, {5: 1e200, 6: 3e200}):
        assert difference({0: 1e308, 1: -1e308}, second) is not None
    assert len(band([([1, 2], [1e308, 1.0]), ([1, 2], [-1e308, 2.0])]).places) == 2


def test_too_few_values_tell_nothing() -> None:
    assert difference({0: 1.0}, {0: 2.0}) is None
    assert difference({0: 1.0, 1: math.nan}, {0: 2.0, 1: 3.0}) is None


def test_between_its_places_a_curve_is_straight_and_outside_there_is_none() -> None:
    torn = ([10, 10, 15, 20], [1.0, 3.0, 4.0, math.nan])
    curves = [([0, 10, 20], [0.0, 1.0, 5.0]), ([5, 10, 30], [2.0, 4.0, 8.0]), torn, ([], [])]
    places = [-1, 0, 5, 9, 10, 15, 18, 30, 31]
    clean = [curves[0], curves[1], ([10, 15], [3.0, 4.0])]
    expected = [interpolate.interp1d(*curve, bounds_error=False)(places) for curve in clean]
    np.testing.assert_allclose(values_at(curves, places), [*expected, np.full(9, np.nan)])


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_band_is_scipys_interval(count: int) -> None:
    values = RANDOM.normal(size=(count, 4))
    found = band([(range(4), list(row)) for row in values])
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(axis=0), scale=stats.sem(values))
    assert found.places.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose([found.mean, found.low, found.high], [values.mean(axis=0), low, high])


def test_a_band_is_where_every_curve_has_a_value() -> None:
    found = band([([1, 2, 3, 4], [1.0, 2.0, 4.0, 4.0]), ([2, 4, 8], [2.0, 6.0, 0.0])])
    assert found.places.tolist() == [2, 3, 4]
    assert found.mean.tolist() == [2.0, 4.0, 5.0]
    assert len(band([([1, 2], [1.0, 1.0]), ([3, 4], [1.0, 1.0])]).places) == 0
    assert len(band([([1, 2], [1.0, 1.0]), ([], [])]).places) == len(band([]).places) == 0


def test_where_places_fall_what_was_there_before_is_undone() -> None:
    rewound = ([1, 2, 3, 4, 3, 4, 5], [1.0, 2.0, 9.0, 9.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(values_at([rewound], [1, 2, 3, 4, 5]), [[1, 2, 3, 4, 5]])
    assert band([rewound, ([1, 5], [1.0, 5.0])]).mean.tolist() == [1, 2, 3, 4, 5]


def test_many_places_become_evenly_few_unless_all_have_the_same() -> None:
    long = (range(1000), [float(number) for number in range(1000)])
    found = band([long, ([0.5, 999.5], [0.5, 999.5])], most=50)
    assert (len(found.places), found.places[0], found.places[-1]) == (50, 0.5, 999.0)
    np.testing.assert_allclose(found.mean, found.places)
    assert len(band([long, long], most=50).places) == 1000


def test_of_one_curve_the_band_has_no_width() -> None:
    alone = band([([1, 2], [3.0, 4.0])])
    assert alone.low.tolist() == alone.mean.tolist() == alone.high.tolist() == [3.0, 4.0]
