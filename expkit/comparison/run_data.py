"""One run as a comparison sees it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expkit.comparison.alignment import standing, values_at
from expkit.comparison.configs import flatten, seed_of
from expkit.comparison.direction import Direction
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.listing.about import entry_of
from expkit.plots.curve import Curve
from expkit.reading.axis import Axis
from expkit.reading.feed import RunFeed
from expkit.reading.history import read_results
from expkit.reading.state import StateReader
from expkit.record import RESERVED

__all__ = ["Figures", "RunData", "label_runs", "load_run", "load_runs"]

#: What of config.json says where and with what a run was trained.
_ENVIRONMENT = (
    "git_hash",
    "git_dirty",
    "parent",
    "packages",
    "hardware.gpu_model",
    "hardware.gpu_count",
    "hardware.cpu",
)


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


@dataclass(frozen=True)
class RunData:
    """A run: what it was trained with, and its curves.

    Attributes:
        feed: its files, read; a final metric of results.json that has no curve is one value at the last step.
        label: its name in tables.
        state: finished, running, crashed ...
        config: flat, as it was resolved; {} if it is not known.
        environment: flat: commit, packages, GPUs.
        results: results.json, {} without it.
    """

    feed: RunFeed
    label: str
    state: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The run's id."""
        return self.feed.name

    @property
    def seed(self) -> int | float | str | None:
        """What its random numbers began with; None if it is not known."""
        return seed_of(self.config.get("trainer.seed", self.config.get("seed")))

    @property
    def metrics(self) -> list[str]:
        """The names of its metrics, sorted."""
        return sorted(set(self.feed.curves) - RESERVED)

    def figures(self, metric: str) -> Figures | None:
        """Return what a metric's values come to; None without a finite one."""
        curve = self.feed.curves.get(metric)
        steps, values = curve.line() if curve is not None else ([], [])
        if curve is None or not values:
            return None
        if (np.diff(steps) < 0).any():  # somebody's own loop that went back: what it did again counts
            steps, values = (each.tolist() for each in standing(steps, values))
        low, high = int(np.argmin(values)), int(np.argmax(values))
        last = self.feed.last.get(metric, math.nan)  # an index keeps no NaN
        return Figures(last, values[low], int(steps[low]), values[high], int(steps[high]), curve.count, curve.nonfinite)

    def curve(self, metric: str, axis: Axis) -> Curve:
        """Return a metric's curve over an axis; without a value if the run has no such metric, or no such axis."""
        curve = self.feed.curves.get(metric)
        if curve is None or (axis.along != "step" and axis.along not in self.feed.curves):
            return Curve()
        return axis.over(self.feed, curve)

    def end(self, metric: str, axis: Axis) -> float:
        """Return the place of a metric's last finite value, NaN if there is none; of very many, of its last value."""
        curve = self.curve(metric, axis)
        places, ends = curve.line()[0], curve.ends()
        if not places or ends is None:
            return math.nan
        return places[-1] if curve.count == len(places) else ends[1]

    def value_at(self, metric: str, axis: Axis, place: float) -> float:
        """Return a metric's value at a place, on a straight line between those before and behind it; NaN if none is.

        Of a curve in bins, the values around it are read from the journal again.
        """
        curve = self.curve(metric, axis)
        if curve.bounds() is None or not math.isfinite(place):
            return math.nan
        step, _ = axis.steps(self.feed, (place, place))
        detail = self.feed.detail(metric, step, step)
        line = axis.over(self.feed, detail).line() if detail is not None else curve.line()
        return float(values_at([line], [place])[0, 0])


def load_run(run: RunDir, label: str = "") -> RunData:
    """Read a run.

    Args:
        run: its directory: of the runner, of somebody's own loop, or one with only a results.json.
        label: its name in tables; its id if there is none.

    Raises:
        UserError: its files cannot be read.
    """
    feed = RunFeed(run)
    try:
        feed.refresh()
    except OSError as error:
        raise UserError(f"{run.root}: {error.strerror or error}") from None
    finally:
        feed.close()
    whole = flatten(_content(run.config))
    found = {name: value for name, value in whole.items() if name.startswith(_ENVIRONMENT) and value is not None}
    state = StateReader(feed).read().state
    if state == "unknown":  # its files may be damaged, or it has a results.json alone
        state = entry_of(run).state
    results = _results(run.results)
    if feed.status.get("state") in ("starting", "running"):  # or killed: what results.json says is older
        results.pop("final_metrics", None)
    _add_final(feed, results)
    return RunData(feed, label or run.id, state, flatten(feed.config), found, results)


def load_runs(runs: Sequence[RunDir]) -> list[RunData]:
    """Read runs, and give them short labels.

    Raises:
        UserError: the files of one cannot be read.
    """
    labels = label_runs([run.id for run in runs])
    return [load_run(run, label) for run, label in zip(runs, labels, strict=True)]


def label_runs(names: Sequence[str]) -> list[str]:
    """Return short labels: without what all ids begin with, and numbered where they are the same."""
    words = [name.split("_") for name in names]
    shared = 0
    while len(names) > 1 and all(len(each) > shared + 1 and each[shared] == words[0][shared] for each in words):
        shared += 1
    labels = ["_".join(each[shared:]) for each in words]
    seen = Counter[str]()
    told = []
    for label in labels:
        seen[label] += 1
        told.append(f"{label} ({seen[label]})" if labels.count(label) > 1 else label)
    return told


def _content(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) if path.exists() else {}
    except UserError:
        return {}  # damaged, or written just now


def _add_final(feed: RunFeed, results: Mapping[str, Any]) -> None:
    final = results.get("final_metrics")
    for name, value in final.items() if isinstance(final, dict) else ():
        if type(value) in (int, float) and name not in feed.curves and name not in RESERVED:
            feed.curves[name] = Curve([feed.last.get("step", 0)], [float(value)])
            feed.last[name] = float(value)


def _results(path: Path) -> dict[str, Any]:
    try:
        return read_results(path) if path.exists() else {}
    except UserError:
        return {}
