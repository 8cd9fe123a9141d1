"""When a line through noisy values meets a threshold: the estimate, and how sure it is."""

from __future__ import annotations

import math
import random

import pytest

from expkit.svd.trend import find_trend


def falling(noise: float, count: int, seed: int = 0, slope: float = -0.001) -> list[tuple[int, float]]:
    source = random.Random(seed)
    return [(20 * index, 0.5 + slope * 20 * index + source.gauss(0, noise)) for index in range(count)]


def test_a_straight_line_is_met_when_it_is_met() -> None:
    trend = find_trend("subspace_angle", falling(0.0, 10), 0.1)
    assert trend is not None
    assert [trend.steps, trend.low, trend.high] == pytest.approx([220, 220, 220])
    assert (trend.analyses, trend.horizon, trend.slope) == (10, 900, pytest.approx(-0.001))
    rising = find_trend("minor_alignment", [(step, 1 - value) for step, value in falling(0.0, 10)], 0.9)
    assert rising is not None and rising.steps == pytest.approx(220)


def test_at_least_five_and_at_most_twenty_analyses_count() -> None:
    assert find_trend("subspace_angle", falling(0.0, 4), 0.1) is None
    assert find_trend("subspace_angle", falling(0.0, 5), 0.1) is not None
    early = [(step - 2000, 9.0) for step, _ in falling(0.0, 50)]
    trend = find_trend("subspace_angle", [*early, *falling(0.0, 20)], 0.02)
    assert trend is not None and trend.analyses == 20 and trend.steps == pytest.approx(100)


def test_no_trend_where_there_is_none() -> None:
    values = falling(0.0, 20)
    assert find_trend("subspace_angle", values, 0.9) is None, "it goes the other way"
    assert find_trend("subspace_angle", [*values[:15], *((20 * i, 0.2 + i / 1000) for i in range(15, 20))], 0.1) is None
    assert find_trend("subspace_angle", [(step, 0.5) for step, _ in values], 0.1) is None
    noise = sum(find_trend("subspace_angle", falling(0.05, 20, seed, 0.0), 0.1) is not None for seed in range(300))
    assert noise <= 15, "half of the 5 % that noise alone would pass in both directions, and some luck"


def test_the_interval_holds_the_true_crossing_as_often_as_it_says() -> None:
    held = found = 0
    for seed in range(1000):
        trend = find_trend("subspace_angle", falling(0.01, 12, seed), 0.1)
        if trend is not None:
            found += 1
            held += trend.low <= 400 - 220 <= trend.high
            assert trend.low <= trend.steps <= trend.high
    assert found > 950
    assert 0.93 <= held / found <= 0.97


def test_of_a_curve_only_the_straight_end_counts() -> None:
    decay = [(20 * index, 0.5 * math.exp(-20 * index / 300)) for index in range(20)]  # meets 0.1 at step 482.8
    source = random.Random(0)
    noisy = [(step, value + source.gauss(0, 0.002)) for step, value in decay]
    for points in (decay, noisy):
        trend = find_trend("subspace_angle", points, 0.1)
        assert trend is not None and trend.analyses < 20
        assert 50 <= trend.steps <= 102.8


def test_a_fall_that_becomes_slower_is_not_judged_by_its_noisy_beginning() -> None:
    """The angles of a layer whose subspace turned less and less, noisily at first."""
    angles = [0.99, 1.19, 1.16, 0.97, 0.98, 1.45, 0.73, 1.21, 0.61, 0.40, 0.65, 0.48, 0.52]
    rest = [0.287, 0.321, 0.287, 0.249, 0.249, 0.322]
    points = [(20 * index, angle) for index, angle in enumerate([*angles, *rest], 2)]
    falling = find_trend("subspace_angle", points[: len(angles)], 0.1)
    assert falling is not None and falling.analyses > 5
    slower = find_trend("subspace_angle", points, 0.1)
    assert slower is not None and slower.analyses < len(angles)
    assert slower.steps > 50 and slower.high > 200, "the line through all of them meets 0.1 after 17 steps"


def test_a_line_is_not_believed_in_for_ever() -> None:
    trend = find_trend("subspace_angle", falling(0.0, 5, slope=-1e-5), 0.1)
    assert trend is not None and not trend.within and trend.steps > trend.horizon
