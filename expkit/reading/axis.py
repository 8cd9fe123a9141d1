"""Horizontal axes: steps, time, epochs or samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from expkit.plots.curve import Curve
from expkit.reading.feed import RunFeed

__all__ = ["ALONG", "UNITS", "Along", "Axis", "axis_of"]

Along = Literal["step", "time", "epoch", "samples"]
#: Those that every run has.
ALONG: tuple[Along, ...] = ("step", "time", "epoch")

_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
#: Units of time as somebody asks for them: in seconds.
UNITS = ("1", "60", "3600")

_Places = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Axis:
    """A horizontal axis.

    Attributes:
        along: what it goes along.
        name: with its unit.
        unit: of time, in seconds.
    """

    along: Along
    name: str
    unit: float = 1.0

    def places(self, feed: RunFeed) -> _Places | None:
        """Return what turns the steps of a run into places; None where they are these themselves."""
        if self.along == "time":
            return lambda steps: feed.seconds(steps) / self.unit
        return {"epoch": feed.epochs, "samples": feed.samples}.get(self.along)

    def over(self, feed: RunFeed, curve: Curve) -> Curve:
        """Return a curve of a run, which is over steps, over this axis."""
        places = self.places(feed)
        return curve.over(places) if places is not None else curve

    def steps(self, feed: RunFeed, places: tuple[float, float]) -> tuple[float, float]:
        """Return the steps of a run at two places."""
        if self.along == "step" or self.along not in feed.curves:
            return places
        at, values = feed.curves[self.along].line()
        if not at:
            return places
        known = np.maximum.accumulate(values)
        if self.along == "time":
            known = (known - known[0]) / self.unit
        first, last = np.interp(places, known, at).tolist()
        return first, last


def axis_of(feeds: Sequence[RunFeed], along: Along, unit: float | None = None) -> Axis:
    """Return the axis for runs.

    Args:
        feeds: the runs.
        along: what it goes along.
        unit: of time, in seconds (1, 60, 3600): for whoever shows a part of an axis that grows. None: the largest of
            which the longest run has two.
    """
    if along != "time":
        return Axis(along, along)
    longest = max((feed.duration for feed in feeds), default=0.0)
    fitting = next((each for each in _UNITS if longest >= 2 * each[1]), _UNITS[-1])
    name, seconds = next((each for each in _UNITS if each[1] == unit), fitting)
    return Axis(along, f"{name} since the first record", seconds)
