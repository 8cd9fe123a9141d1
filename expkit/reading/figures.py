"""What the values of a metric come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expkit.reading.feed import RunFeed
from expkit.telling import Direction

__all__ = ["Figures", "ascending", "figures_of"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run's values of one metric come to.

    Attributes:
        last: its last value, finite or not.
        min: the least.
        min_step: where; exact up to 2^53, as all steps of curves.
        max: the greatest.
        max_step: where.
        count: finite values, of what was done again, too.
        nonfinite: others.
    """

    last: float
    min: float
    min_step: int
    max: float
    max_step: int
    count: int
    nonfinite: int

    def best(self, direction: Direction | None) -> tuple[float | None, int | None]:
        """Return the best value and its step; None without a direction."""
        if direction is None:
            return None, None
        return (self.min, self.min_step) if direction == "min" else (self.max, self.max_step)


def figures_of(feed: RunFeed, metric: str) -> Figures | None:
    """Return what a metric's values in a run come to; None without a finite one."""
    curve = feed.curves.get(metric)
    steps, values = curve.line() if curve is not None else ([], [])
    if curve is None or not values:
        return None
    if (np.diff(steps) < 0).any():  # somebody's own loop that went back: what it did again counts
        steps, values = (each.tolist() for each in ascending(steps, values))
    low, high = int(np.argmin(values)), int(np.argmax(values))
    last = feed.last.get(metric, math.nan)  # an index keeps no NaN
    return Figures(last, values[low], int(steps[low]), values[high], int(steps[high]), curve.count, curve.nonfinite)


def ascending(places: Sequence[float], values: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a curve without what is not finite, each place once, with its last value, in ascending order.

    Where places fall, in the journal of a loop that began again further back, what was there before is left out.
    """
    at, known = np.asarray(places, float), np.asarray(values, float)
    keep = np.isfinite(at) & np.isfinite(known)
    at, known = at[keep], known[keep]
    if not len(at):
        return at, known
    later = np.minimum.accumulate(at[::-1])[::-1]  # the least place from here on
    last = np.append(at[:-1] < later[1:], True)
    return at[last], known[last]
