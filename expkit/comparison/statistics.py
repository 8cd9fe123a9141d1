"""What several values of one thing tell: estimates with confidence intervals, and differences of matched pairs.

Student's t distribution throughout: intervals hold for few runs if their values are about normal, which three seeds
cannot show. Values that are not finite are missing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["CONFIDENCE", "Difference", "Estimate", "difference", "estimate", "half_width"]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known of a quantity from some values.

    Attributes:
        n: finite values.
        mean: arithmetic.
        std: of the sample, with n - 1; None of one value.
        low: lower end of the 95 % confidence interval of the mean; None of one value.
        high: upper end.
        min: the least value.
        max: the greatest.
        median: middle one, or the mean of the two.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None
    min: float
    max: float
    median: float


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much two groups differ.

    Attributes:
        mean: of the second less the first.
        low: lower end of its 95 % confidence interval.
        high: upper end.
        t: Student's statistic; infinite where every pair differs by the same.
        p: two-sided: how probable a |t| as great were without a difference.
        n: pairs; of groups without pairs, the values of both.
        paired: whether values of the same seed were held against each other: `scipy.stats.ttest_rel`. Else Welch's
            test (1947) of two samples with unequal variances: `scipy.stats.ttest_ind(equal_var=False)`.
    """

    mean: float
    low: float
    high: float
    t: float
    p: float
    n: int
    paired: bool


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return what the finite ones of some values tell; None if there is none."""
    found = _finite(values)
    if not found:
        return None
    array, n = np.asarray(found), len(found)
    same = min(found) == max(found)  # exactly: no error of rounding is a deviation
    with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e154 a square is infinite, and so is the interval
        mean = found[0] if same else float(array.mean())
        std = (0.0 if same else float(array.std(ddof=1))) if n > 1 else None
        median = float(np.median(array))
    half = half_width(std, n) if std is not None else None
    low, high = (mean - half, mean + half) if half is not None else (None, None)
    return Estimate(n, mean, std, low, high, min(found), max(found), median)


def half_width(std: float, n: int) -> float:
    """Return half of the 95 % confidence interval of a mean of n values with this deviation; n is 2 or more."""
    return _quantile(n - 1) * std / math.sqrt(n)


def difference(first: Mapping[Hashable, float], second: Mapping[Hashable, float]) -> Difference | None:
    """Return by how much the second group differs from the first: of pairs, if two seeds or more are in both.

    Args:
        first: seed -> value.
        second: seed -> value.

    Returns:
        None where there are too few finite values to tell: fewer than two in either.
    """
    pairs = [
        (first[seed], second[seed])
        for seed in first
        if seed in second and math.isfinite(first[seed]) and math.isfinite(second[seed])
    ]
    with np.errstate(over="ignore", invalid="ignore"):
        return _difference(pairs, _finite(list(first.values())), _finite(list(second.values())))


def _difference(
    pairs: Sequence[tuple[float, float]], before: Sequence[float], after: Sequence[float]
) -> Difference | None:
    if len(pairs) >= 2:
        gaps = np.asarray([end - start for start, end in pairs])
        return _tested(
            float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(len(gaps)), len(gaps) - 1, len(gaps), True
        )
    a, b = np.asarray(before), np.asarray(after)
    if len(a) < 2 or len(b) < 2:
        return None
    parts = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    error = math.sqrt(sum(parts))
    squares = parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1)
    freedom = sum(parts) ** 2 / squares if squares else float(len(a) + len(b) - 2)  # Welch and Satterthwaite
    return _tested(float(b.mean() - a.mean()), error, freedom, len(a) + len(b), False)


def _tested(mean: float, error: float, freedom: float, n: int, paired: bool) -> Difference:
    from scipy.special import stdtr

    half = _quantile(freedom) * error
    t = mean / error if error else math.copysign(math.inf, mean) if mean else math.nan
    p = 2 * float(stdtr(freedom, -abs(t))) if error or mean else 1.0
    return Difference(mean, mean - half, mean + half, t, p, n, paired)


def _quantile(freedom: float) -> float:
    from scipy.special import stdtrit  # of its own: scipy.stats takes half a second to import

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
