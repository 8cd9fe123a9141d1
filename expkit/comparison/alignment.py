"""Curves of several runs at the same places, and the band around their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expkit.comparison.statistics import half_width
from expkit.reading.figures import ascending

__all__ = ["Band", "band", "values_at"]

_Array = NDArray[np.float64]
_MOST = 500

#: Places and values.
Points = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Band:
    """The mean of several curves, with its 95 % confidence interval.

    Attributes:
        places: where, (p,).
        mean: of all curves there, (p,).
        low: lower end of the interval, (p,).
        high: upper end, (p,).
    """

    places: _Array
    mean: _Array
    low: _Array
    high: _Array


def values_at(curves: Sequence[Points], places: Sequence[float] | _Array) -> _Array:
    """Return the value of each curve at places, (curves, p): between its own places a curve is a straight line.

    Before its first place and behind its last one it has no value, NaN; what is not finite is none of its places.

    Args:
        curves: places and values of each; of a place that occurs twice the last counts, and where places fall what was
            there before is undone.
        places: (p,).
    """
    at = np.asarray(places, float)
    clean = [ascending(*curve) for curve in curves]
    values = [
        np.interp(at, known, heights, left=np.nan, right=np.nan) if len(known) else np.full(len(at), np.nan)
        for known, heights in clean
    ]
    return np.array(values).reshape(len(curves), len(at))


def band(curves: Sequence[Points], most: int = _MOST) -> Band:
    """Return the mean of curves where every one has a value (elsewhere it would jump with who is missing) and its band.

    Curves that all have the same places keep them. Else there are the places of all, or `most` evenly if there are
    more.

    Args:
        curves: places and values of each, as in `values_at`. Of one the band has no width.
        most: places, at most.
    """
    given = [ascending(*curve)[0] for curve in curves]
    if not given or not all(map(len, given)):
        return Band(*np.empty((4, 0)))
    start, end = max(places[0] for places in given), min(places[-1] for places in given)
    places = np.unique(np.concatenate(given))
    places = places[(places >= start) & (places <= end)]
    if len(places) > most and not all(np.array_equal(each, given[0]) for each in given[1:]):
        places = np.linspace(start, end, most)
    values = values_at(curves, places)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, count = values.mean(axis=0), len(values)
        half = half_width(1.0, count) * values.std(axis=0, ddof=1) if count > 1 else np.zeros(len(mean))
        return Band(places, mean, mean - half, mean + half)
