"""Where a metric is going: a straight line through its last analyses, and when that meets a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LEAST", "MOST", "Trend", "find_trend"]

#: Analyses that a trend is of.
LEAST, MOST = 5, 20
#: A line is believed in for so many times the steps that it was fitted to.
_REACH = 5.0
#: Student's t at 97.5 %, for 2 to 18 degrees of freedom.
_T = (
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
)


@dataclass(frozen=True, slots=True)
class Trend:
    """A steady way towards a threshold.

    Attributes:
        metric: whose.
        value: the last one.
        threshold: that it goes to.
        slope, error: per step, and its standard error, by least squares.
        analyses: how many.
        steps: from the last analysis until the line meets the threshold.
        low, high: 95 % confidence interval of `steps`; `high` may be infinite.
        horizon: how many steps ahead the line is believed in.
    """

    metric: str
    value: float
    threshold: float
    slope: float
    error: float
    analyses: int
    steps: float
    low: float
    high: float
    horizon: float

    @property
    def within(self) -> bool:
        """Whether the threshold is met within the horizon, by the line itself."""
        return self.steps <= self.horizon


def find_trend(metric: str, points: Sequence[tuple[int, float]], threshold: float) -> Trend | None:
    """Return the trend of the last 5 to 20 of `points` if they lead to `threshold` steadily.

    As many as lie on a straight line: of more of them, a parabola would fit better, or the line of the last five would
    end elsewhere, at the 5 % level. Steadily: the slope differs from 0 at the 5 % level, and the last five points alone
    go the same way. The interval is Fieller's (1954): the steps at which the confidence band of the line holds the
    threshold.

    Args:
        metric: for the result.
        points: (step, value), steps rising; values that are not finite are passed over.
        threshold: not met by the last value.
    """
    known = [(step, value) for step, value in points if math.isfinite(value)][-MOST:]
    if len(known) < LEAST:
        return None
    while len(known) > LEAST and (_bent(known) or _ends_elsewhere(known)):
        del known[0]
    last, value = known[-1]
    slope, residual, squares, middle, mean = _line(known)
    way = math.copysign(1.0, threshold - value)
    if slope * way <= 0 or _line(known[-LEAST:])[0] * way <= 0:
        return None
    count = len(known)
    t = _student(count - 2)
    doubt = t * t * residual / squares
    leading = slope * slope - doubt  # above 0 where the slope differs from 0; else any step could be the one
    if not 0 < leading < math.inf:
        return None
    away = threshold - mean
    root = math.sqrt(max(doubt * away * away + leading * t * t * residual / count, 0.0))
    offset = middle - last
    low, high = ((slope * away + sign * root) / leading + offset for sign in (-1, 1))
    steps = away / slope + offset
    horizon = _REACH * (last - known[0][0])
    return Trend(
        metric,
        value,
        threshold,
        slope,
        math.sqrt(residual / squares),
        count,
        max(steps, 0.0),
        max(low, 0.0),
        max(high, 0.0),
        horizon,
    )


def _student(freedom: int) -> float:
    return _T[freedom - 2]


def _bent(points: Sequence[tuple[int, float]]) -> bool:
    """Whether a parabola explains the points better than a line does."""
    count = len(points)
    slope, residual, squares, middle, mean = _line(points)
    steps = [step - middle for step, _ in points]
    skew, square = sum(x * x * x for x in steps) / squares, squares / count
    bow = [x * x - skew * x - square for x in steps]  # orthogonal to the line
    size = sum(each * each for each in bow)
    if not size:
        return False
    bend = sum(each * (value - mean - slope * x) for each, x, (_, value) in zip(bow, steps, points, strict=True)) / size
    bowed = bend * bend * size
    left = max(residual * (count - 2) - bowed, 1e-12 * slope * slope * squares)  # rounding is no curve
    return bowed * (count - 3) > _student(count - 3) ** 2 * left


def _ends_elsewhere(points: Sequence[tuple[int, float]]) -> bool:
    """Whether the line through the last points, by their own noise, is not where that through all of them ends."""
    last = points[-1][0]
    slope, _, _, middle, mean = _line(points)
    end = mean + slope * (last - middle)
    slope, residual, squares, middle, mean = _line(points[-LEAST:])
    away = mean + slope * (last - middle) - end
    doubt = residual * (1 / LEAST + (last - middle) * (last - middle) / squares)
    return away * away > _student(LEAST - 2) ** 2 * doubt + 1e-12 * end * end


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float, float, float, float]:
    """Return slope, variance of the residuals, sum of squares of the steps about their mean, and both means."""
    count = len(points)
    middle = sum(step for step, _ in points) / count
    mean = sum(value for _, value in points) / count
    squares = sum((step - middle) * (step - middle) for step, _ in points)
    slope = sum((step - middle) * (value - mean) for step, value in points) / squares
    beside = [value - mean - slope * (step - middle) for step, value in points]
    left = sum(each * each for each in beside)
    return slope, left / (count - 2), squares, middle, mean
