"""How often plots are drawn: on their intervals, and less often where looking at the model takes training's time."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence

from expkit.diagnostics.budget import Cost, stretches
from expkit.plots import Plot
from expkit.schedule import Every, Progress, auto_intervals

__all__ = ["Cadence"]

log = logging.getLogger("expkit")

#: Seconds that plots may take in all before an interval grows: a short run has other worries.
_GRACE = 1.0
#: Times that an interval grows at once.
_MOST = 10.0


class Cadence:
    """When each plot is due. An interval that is `auto` grows to keep a share of the time; one that was typed stays.

    What counts is what training waits for. Drawing itself is done beside it.

    Args:
        plots: name -> plot.
        total_steps: updates of the whole run, for intervals that are `auto`.
    """

    def __init__(self, plots: Mapping[str, Plot], total_steps: int) -> None:
        auto = auto_intervals(total_steps)["plot"]
        self._every = {
            name: Every(steps=auto if plot.viz_interval == "auto" else plot.viz_interval)
            for name, plot in plots.items()
        }
        self._growing = {name: Cost() for name, plot in plots.items() if plot.viz_interval == "auto"}
        self._took = dict.fromkeys(plots, 0.0)
        self._pending = dict.fromkeys(plots, 0.0)
        now = time.perf_counter()
        self._since = dict.fromkeys(plots, now)
        self._spent = 0.0

    def due(self, progress: Progress) -> list[str]:
        """Return the plots that are due."""
        return [name for name, every in self._every.items() if every.due(progress)]

    def quick(self, names: Sequence[str], seconds: float) -> list[str]:
        """Return those of `names` that took no longer than `seconds` when they were last due."""
        return [name for name in names if self._took[name] <= seconds]

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count what happens in this context as what a plot takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._pending[name] += time.perf_counter() - began

    def note(self, names: Sequence[str], budget: float | None) -> None:
        """Note that these plots have been looked at, and lengthen intervals that are too short.

        Args:
            names: of the plots.
            budget: share of the time that all plots together may take; None: whatever they take.
        """
        now = time.perf_counter()
        for name in names:
            took, self._pending[name] = self._pending[name], 0.0
            if name in self._growing:
                self._growing[name].add(took, max(now - self._since[name] - took, 0.0))
            self._took[name], self._since[name] = took, now
            self._spent += took
        ratios = {name: ratio for name, cost in self._growing.items() if (ratio := cost.ratio) is not None}
        if budget is None or self._spent < _GRACE:
            return
        for name, factor in stretches(ratios, budget).items():
            before = self._every[name].steps
            assert before is not None  # a plot's interval is one of steps
            self._every[name] = Every(steps=before * math.ceil(min(factor, _MOST)))
            self._growing[name].clear()
            log.warning(
                "plots.%s: drawn every %d steps from here on, not every %d: what it needs took more than its part of "
                "trainer.diagnostics_budget=%g of the time; a plots.%s.viz_interval that is typed stays",
                name, self._every[name].steps, before, budget, name,
            )  # fmt: skip
