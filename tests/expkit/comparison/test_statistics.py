"""Estimates and tests against scipy.stats and pandas' figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import interpolate, stats

from expkit.comparison.alignment import align, band
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


def test_too_few_values_tell_nothing() -> None:
    assert difference({0: 1.0}, {0: 2.0}) is None
    assert difference({0: 1.0, 1: math.nan}, {0: 2.0, 1: 3.0}) is None


def test_curves_with_the_same_places_are_left_as_they_are() -> None:
    places, values = align([([1, 2, 3], [1, 4, 9]), ([1, 2, 3], [0, 0, 1])])
    assert places.tolist() == [1, 2, 3]
    assert values.tolist() == [[1, 4, 9], [0, 0, 1]]


def test_between_its_places_a_curve_is_straight_and_outside_there_is_none() -> None:
    torn = ([10, 10, 15, 20], [1.0, 3.0, 4.0, math.nan])
    curves = [([0, 10, 20], [0.0, 1.0, 5.0]), ([5, 10, 30], [2.0, 4.0, 8.0]), torn]
    places, values = align(curves)
    clean = [curves[0], curves[1], ([10, 15], [3.0, 4.0])]
    expected = [interpolate.interp1d(*curve, bounds_error=False)(places) for curve in clean]
    assert places.tolist() == [0, 5, 10, 15, 20, 30]
    np.testing.assert_allclose(values, expected)


def test_many_places_become_evenly_few() -> None:
    places, values = align([(range(1000), range(1000)), ([0.5, 999.5], [1.0, 1.0])], most=50)
    assert len(places) == 50
    assert np.isnan(values[0, -1]) and np.isnan(values[1, 0])


def test_a_band_is_scipys_interval_where_every_curve_has_a_value() -> None:
    values = np.array([[1.0, 2.0, 4.0, np.nan], [2.0, 2.5, 3.0, 1.0], [1.5, 9.0, 3.5, 1.0]])
    found = band(np.array([1.0, 2.0, 3.0, 4.0]), values)
    low, high = stats.t.interval(0.95, 2, loc=values[:, :3].mean(axis=0), scale=stats.sem(values[:, :3]))
    assert found.places.tolist() == [1.0, 2.0, 3.0]
    np.testing.assert_allclose([found.low, found.high], [low, high])


def test_nothing_is_aligned_to_nothing() -> None:
    places, values = align([([], []), ([1], [math.inf])])
    assert places.shape == (0,) and values.shape == (2, 0)
