"""A curve in bounded memory: what a picture can show of a metric, however long it grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve"]

_BINS = 500
_WAITING = 1 << 14  # values
_MARKS = 256
_NOISY_FROM = 100
_VISIBLE = 0.01
_TIME_CONSTANT = 0.015
_SHORTEST = 4.0  # values

#: Rows of the table of bins: the extremes with their steps, the middle of the bin, and the mean.
_LOW_STEP, _LOW, _HIGH_STEP, _HIGH, _STEP, _MEAN = range(6)

_Array = NDArray[np.float64]


class Curve:
    """One metric over steps, thinned as it grows.

    Values in a row form a bin, which keeps its least, its greatest and its mean: a spike of one step stays. When
    there are `bins` of them, every two neighbours become one. Values that are not finite are left out, counted, and
    their steps are kept.

    Args:
        steps: their steps, ascending.
        values: the first values.
        bins: when to thin; an even number.
    """

    def __init__(self, steps: Sequence[float] = (), values: Sequence[float] = (), bins: int = _BINS) -> None:
        self._limit = bins
        self._width = 1  # values in a bin
        self._table: _Array = np.empty((6, 0))
        self._steps: list[float] = []  # of the bin that is not full, and of what was not looked at yet
        self._values: list[float] = []
        self._seen = 0  # of these, known to be finite
        self._in_bins = 0
        self._nonfinite = 0
        self._marks: list[float] = []
        self._mark_every = 1
        self._ends: tuple[float, float] | None = None
        self.extend(steps, values)

    def extend(self, steps: Sequence[float] | _Array, values: Sequence[float] | _Array) -> None:
        """Add values at later steps."""
        if len(steps):
            self._ends = (self._ends[0] if self._ends else float(steps[0]), float(steps[-1]))
        if isinstance(steps, np.ndarray) and isinstance(values, np.ndarray):
            self._take(np.append(self._steps, steps), np.append(self._values, values))
            return
        self._steps += steps
        self._values += values
        if len(self._values) > _WAITING:
            self._fold()

    @property
    def count(self) -> int:
        """How many finite values it was made of."""
        self._fold()
        return self._in_bins + len(self._values)

    @property
    def nonfinite(self) -> int:
        """How many values were NaN or infinite."""
        self._fold()
        return self._nonfinite

    @property
    def nonfinite_steps(self) -> list[float]:
        """The steps of values that were not finite; of very many, evenly so many as a picture can show."""
        self._fold()
        return list(self._marks)

    @property
    def first_nonfinite(self) -> float | None:
        """The step of the first value that was not finite."""
        self._fold()
        return self._marks[0] if self._marks else None

    def line(self) -> tuple[list[float], list[float]]:
        """Return steps and values to draw: the least and the greatest of each bin, in their order."""
        table = self._all()
        first_is_low = table[_LOW_STEP] <= table[_HIGH_STEP]
        both = np.empty((2, 2, table.shape[1]))  # step or value, place in the bin, bin
        both[:, 0] = np.where(first_is_low, table[:2], table[2:4])
        both[:, 1] = np.where(first_is_low, table[2:4], table[:2])
        keep = np.ones((2, table.shape[1]), dtype=bool)
        keep[1] = table[_LOW] != table[_HIGH]
        points = both.transpose(0, 2, 1)[:, keep.T]
        return points[0].tolist(), points[1].tolist()

    def average(self, constant: float = _TIME_CONSTANT) -> tuple[list[float], list[float]]:
        """Return steps and values of the exponential moving average.

        Its time constant grows with what there is to average, up to 1.5 % of the curve: it follows a steep beginning.

        Args:
            constant: the longest time constant, as a fraction of the curve.
        """
        table = self._all()
        longest = max(_SHORTEST, constant * table.shape[1])
        averages: list[float] = []
        for number, mean in enumerate(table[_MEAN].tolist()):
            decay = math.exp(-1 / max(1.0, min(longest, number / 10)))
            averages.append(mean + decay * (averages[-1] - mean) if averages else mean)
        return table[_STEP].tolist(), averages

    def means(self) -> tuple[list[float], list[float]]:
        """Return steps and values of the bins' means; of a curve that is not thinned, the values.

        `line` goes from extreme to extreme: of noise that is not symmetric, its middle is not the mean.
        """
        table = self._all()
        return table[_STEP].tolist(), table[_MEAN].tolist()

    def resolution(self, between: tuple[float, float]) -> tuple[int, int]:
        """Return how many bins show the steps from one to another, and how many values are in a bin."""
        table = self._all()
        start, end = np.searchsorted(table[_STEP], between)
        return int(end - start), self._width

    def noisy(self, logarithmic: bool = False) -> bool:
        """Whether a long line often turns, by more than 1 % of its height: then its average says more.

        Args:
            logarithmic: whether it is seen on a logarithmic axis; all values are positive then.
        """
        values = np.asarray(self.line()[1])
        if len(values) < _NOISY_FROM:
            return False
        if logarithmic:
            values = np.log(values)
        changes = np.diff(values)
        before, after = changes[:-1], changes[1:]
        seen = np.maximum(np.abs(before), np.abs(after)) > _VISIBLE * np.ptp(values)
        opposite = np.sign(before) * np.sign(after) < 0
        return bool(np.count_nonzero(opposite & seen) > 0.25 * len(values))

    def bounds(self) -> tuple[float, float] | None:
        """Return the least and the greatest value, or None if there is none."""
        table = self._all()
        return (float(table[_LOW].min()), float(table[_HIGH].max())) if table.shape[1] else None

    def ends(self) -> tuple[float, float] | None:
        """Return the first and the last step, of values that are not finite too; or None if there is none."""
        return self._ends

    def thinned(self, bins: int, between: tuple[float, float] | None = None) -> Curve:
        """Return a curve of at most so many bins, with the same extremes.

        Args:
            bins: at most; at least 2.
            between: the first and the last step to keep; a bin beyond each end stays, for a line that leaves the
                picture. Its count is then that of what is kept.
        """
        table = self._all()
        if between is not None and table.shape[1]:
            start = int(np.searchsorted(table[_STEP], between[0], "left"))
            end = int(np.searchsorted(table[_STEP], between[1], "right"))
            table = table[:, max(0, start - 1) : end + 1]
        made = Curve(bins=bins)
        made._width = self._width
        made._in_bins = min(self._in_bins + len(self._values), table.shape[1] * self._width)
        while table.shape[1] > bins:
            odd, table = table[:, table.shape[1] & ~1 :], _merged(table[:, : table.shape[1] & ~1])
            table = np.concatenate([table, odd], axis=1)
            made._width *= 2
        made._table = table
        made._nonfinite, made._marks, made._mark_every = self._nonfinite, list(self._marks), self._mark_every
        made._ends = self._ends
        if between is not None and self._ends is not None:
            made._ends = (max(between[0], self._ends[0]), min(between[1], self._ends[1]))
        return made

    def over(self, places: Callable[[_Array], _Array]) -> Curve:
        """Return the same curve over something else than steps: over time, say.

        Args:
            places: turns steps into places; later steps are never before earlier ones.
        """
        made = self.thinned(self._limit)
        table = made._table.copy()
        for row in (_LOW_STEP, _HIGH_STEP, _STEP):
            table[row] = places(table[row])
        made._table, made._marks = table, places(np.asarray(made._marks, float)).tolist()
        if self._ends is not None:
            first, last = places(np.asarray(self._ends, float)).tolist()
            made._ends = (first, last)
        return made

    def state(self) -> tuple[dict[str, Any], _Array]:
        """Return all of it, to be kept in a file: plain JSON values, and the bins."""
        self._fold()
        plain = {
            "bins": self._limit,
            "width": self._width,
            "in_bins": self._in_bins,
            "steps": list(self._steps),
            "values": list(self._values),
            "nonfinite": self._nonfinite,
            "marks": list(self._marks),
            "mark_every": self._mark_every,
            "ends": self._ends,
        }
        return plain, self._table.copy()

    @classmethod
    def from_state(cls, plain: Mapping[str, Any], table: _Array) -> Curve:
        """Return the curve whose `state` this is.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        waiting = len(plain["values"])
        if not (len(plain["steps"]) == waiting < plain["width"] and table.shape[1] < plain["bins"]):
            raise ValueError("a curve does not fit together")
        made = cls(plain["steps"], plain["values"], bins=plain["bins"])
        made._width, made._in_bins, made._table = plain["width"], plain["in_bins"], table
        made._seen = len(made._values)
        made._nonfinite, made._marks, made._mark_every = plain["nonfinite"], list(plain["marks"]), plain["mark_every"]
        made._ends = tuple(plain["ends"]) if plain["ends"] else None
        return made

    def _all(self) -> _Array:
        """Return the bins with the one that is not full."""
        self._fold()
        if not self._values:
            return self._table
        last = _binned(np.asarray(self._steps, float)[None], np.asarray(self._values, float)[None])
        return np.concatenate([self._table, last], axis=1)

    def _fold(self) -> None:
        """Put what waits into bins, as far as it fills them."""
        if len(self._values) > self._seen:
            self._take(np.asarray(self._steps, float), np.asarray(self._values, float))

    def _take(self, steps: _Array, values: _Array) -> None:
        """Put values into bins; those that fill none wait."""
        finite = np.isfinite(values)
        if not finite.all():
            self._mark(steps[~finite])
            steps, values = steps[finite], values[finite]
        taken = 0
        while (full := (len(values) - taken) // self._width) > 0:
            count = min(full, self._limit - self._table.shape[1])
            rows = slice(taken, taken + count * self._width)
            made = _binned(steps[rows].reshape(count, -1), values[rows].reshape(count, -1))
            self._table = np.concatenate([self._table, made], axis=1)
            taken = rows.stop
            if self._table.shape[1] == self._limit:
                self._table = _merged(self._table)
                self._width *= 2
        self._in_bins += taken
        self._steps, self._values = steps[taken:].tolist(), values[taken:].tolist()
        self._seen = len(self._values)

    def _mark(self, steps: _Array) -> None:
        offset = -self._nonfinite % self._mark_every
        self._marks += steps[offset :: self._mark_every].tolist()
        self._nonfinite += len(steps)
        while len(self._marks) > _MARKS:
            del self._marks[1::2]
            self._mark_every *= 2


def _binned(steps: _Array, values: _Array) -> _Array:
    """Return the bins whose steps and values are the rows of two tables."""
    if values.shape[1] == 1:
        step, value = steps[:, 0], values[:, 0]
        return np.stack([step, value, step, value, step, value])
    rows = np.arange(len(values))
    low, high = values.argmin(axis=1), values.argmax(axis=1)
    middle = (steps[:, 0] + steps[:, -1]) / 2
    return np.stack(
        [steps[rows, low], values[rows, low], steps[rows, high], values[rows, high], middle, values.mean(axis=1)]
    )


def _merged(table: _Array) -> _Array:
    """Return half as many bins, each made of two neighbours. There is an even number of them."""
    first, second = table[:, ::2], table[:, 1::2]
    made = (first + second) / 2  # right for step and mean
    made[:2] = np.where(first[_LOW] <= second[_LOW], first[:2], second[:2])
    made[2:4] = np.where(first[_HIGH] >= second[_HIGH], first[2:4], second[2:4])
    return made
