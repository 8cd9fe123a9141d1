"""A curve in bounded memory: what a picture can show of a metric, however long it grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import NamedTuple

__all__ = ["Curve"]

_BINS = 500
_NOISY_FROM = 100
_VISIBLE = 0.01
_TIME_CONSTANT = 0.015
_SHORTEST = 4.0  # values


class _Bin(NamedTuple):
    """Values in a row: the extremes with their steps, and the mean in the middle of the bin."""

    low_step: float
    low: float
    high_step: float
    high: float
    step: float
    mean: float


class Curve:
    """One metric over steps, thinned as it grows.

    Values in a row form a bin, which keeps its least, its greatest and its mean: a spike of one step stays. When
    there are `bins` of them, every two neighbours become one. Values that are not finite are left out and counted.

    Args:
        steps: their steps, ascending.
        values: the first values.
        bins: when to thin; an even number.

    Attributes:
        nonfinite: how many values were NaN or infinite.
        first_nonfinite: the step of the first of them.
    """

    def __init__(self, steps: Sequence[float] = (), values: Sequence[float] = (), bins: int = _BINS) -> None:
        self.nonfinite = 0
        self.first_nonfinite: float | None = None
        self._limit = bins
        self._width = 1  # values in a bin
        self._bins: list[_Bin] = []
        self._steps: list[float] = []  # of the bin that is not full
        self._values: list[float] = []
        self.extend(steps, values)

    def extend(self, steps: Sequence[float], values: Sequence[float]) -> None:
        """Add values at later steps."""
        if not all(map(math.isfinite, values)):
            finite = [math.isfinite(value) for value in values]
            if self.first_nonfinite is None:
                self.first_nonfinite = steps[finite.index(False)]
            self.nonfinite += finite.count(False)
            steps = [step for step, keep in zip(steps, finite, strict=True) if keep]
            values = [value for value, keep in zip(values, finite, strict=True) if keep]
        self._steps += steps
        self._values += values
        start = 0
        while len(self._values) - start >= self._width:
            row = slice(start, start + self._width)
            self._bins.append(_bin(self._steps[row], self._values[row]))
            start += self._width
            if len(self._bins) >= self._limit:
                self._bins = [_merged(*pair) for pair in zip(self._bins[::2], self._bins[1::2], strict=True)]
                self._width *= 2
        del self._steps[:start], self._values[:start]

    def line(self) -> tuple[list[float], list[float]]:
        """Return steps and values to draw: the least and the greatest of each bin, in their order."""
        points = list(chain.from_iterable(_points(each) for each in self._all()))
        return [step for step, _ in points], [value for _, value in points]

    def average(self) -> tuple[list[float], list[float]]:
        """Return steps and values of the exponential moving average.

        Its time constant grows with what there is to average, up to 1.5 % of the curve: it follows a steep beginning.
        """
        bins = self._all()
        longest = max(_SHORTEST, _TIME_CONSTANT * len(bins))
        averages: list[float] = []
        for number, each in enumerate(bins):
            decay = math.exp(-1 / max(1.0, min(longest, number / 10)))
            averages.append(each.mean + decay * (averages[-1] - each.mean) if averages else each.mean)
        return [each.step for each in bins], averages

    def noisy(self, logarithmic: bool = False) -> bool:
        """Whether a long line often turns, by more than 1 % of its height: then its average says more.

        Args:
            logarithmic: whether it is seen on a logarithmic axis; all values are positive then.
        """
        values = self.line()[1]
        if len(values) < _NOISY_FROM:
            return False
        if logarithmic:
            values = [math.log(value) for value in values]
        least = _VISIBLE * (max(values) - min(values))
        changes = [after - before for before, after in pairwise(values)]
        turns = sum(a * b < 0 and max(abs(a), abs(b)) > least for a, b in pairwise(changes))
        return turns > 0.25 * len(values)

    def bounds(self) -> tuple[float, float] | None:
        """Return the least and the greatest value, or None if there is none."""
        bins = self._all()
        return (min(each.low for each in bins), max(each.high for each in bins)) if bins else None

    def _all(self) -> list[_Bin]:
        return [*self._bins, _bin(self._steps, self._values)] if self._values else self._bins


def _bin(steps: Sequence[float], values: Sequence[float]) -> _Bin:
    low, high = min(values), max(values)
    middle = (steps[0] + steps[-1]) / 2 if len(steps) > 1 else steps[0]
    mean = sum(values) / len(values) if len(values) > 1 else values[0]
    return _Bin(steps[values.index(low)], low, steps[values.index(high)], high, middle, mean)


def _merged(first: _Bin, second: _Bin) -> _Bin:
    low = first if first.low <= second.low else second
    high = first if first.high >= second.high else second
    middle, mean = (first.step + second.step) / 2, (first.mean + second.mean) / 2
    return _Bin(low.low_step, low.low, high.high_step, high.high, middle, mean)


def _points(each: _Bin) -> tuple[tuple[float, float], ...]:
    low, high = (each.low_step, each.low), (each.high_step, each.high)
    return (low,) if low == high else (low, high) if low < high else (high, low)
