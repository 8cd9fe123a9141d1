"""Curves of several runs at the same places, and the band around their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expkit.comparison.statistics import half_width

__all__ = ["Band", "align", "band"]

_Array = NDArray[np.float64]
_MOST = 500


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


def align(curves: Sequence[tuple[Sequence[float], Sequence[float]]], most: int = _MOST) -> tuple[_Array, _Array]:
    """Return places, and the values of each curve there.

    Curves that all have the same places keep them. Else there are the places of all, or `most` evenly from the first
    to the last if there are more, and between its own places a curve is a straight line. Before its first place and
    behind its last one it has no value, and where it had one that is not finite it has none either.

    Args:
        curves: places, which do not fall, and values of each; of a place that occurs twice the last counts.
        most: places, at most.

    Returns:
        places (p,) and values (curves, p), NaN where a curve has none.
    """
    clean = [_clean(*curve) for curve in curves]
    given = [places for places, _ in clean if len(places)]
    if not given:
        return np.empty(0), np.empty((len(clean), 0))
    same = all(np.array_equal(places, given[0]) for places in given[1:])
    places = given[0] if same else np.unique(np.concatenate(given))
    if not same and len(places) > most:
        places = np.linspace(places[0], places[-1], most)
    values = [
        np.interp(places, at, known, left=np.nan, right=np.nan) if len(at) else np.full(len(places), np.nan)
        for at, known in clean
    ]
    return places, np.array(values)


def band(places: _Array, values: _Array) -> Band:
    """Return mean and band where every curve has a value: elsewhere they would jump with who is missing.

    Args:
        places: (p,).
        values: (curves, p), NaN where a curve has none. Of one curve the band has no width.
    """
    complete = np.isfinite(values).all(axis=0)
    places, values = places[complete], values[:, complete]
    mean = values.mean(axis=0)
    count = len(values)
    half = half_width(1.0, count) * values.std(axis=0, ddof=1) if count > 1 else np.zeros(len(mean))
    return Band(places, mean, mean - half, mean + half)


def _clean(places: Sequence[float], values: Sequence[float]) -> tuple[_Array, _Array]:
    """Return a curve without what is not finite, each place once, with its last value."""
    at, known = np.asarray(places, float), np.asarray(values, float)
    keep = np.isfinite(at) & np.isfinite(known)
    at, known = at[keep], known[keep]
    last = np.append(np.diff(at) > 0, True)[: len(at)]
    return at[last], known[last]
