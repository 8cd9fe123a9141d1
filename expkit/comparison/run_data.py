"""One run as a comparison sees it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expkit.comparison.alignment import values_at
from expkit.comparison.configs import seed_of
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.listing.entry import entry_of
from expkit.nested import flatten
from expkit.plots.curve import Curve
from expkit.reading.axis import Axis
from expkit.reading.feed import RunFeed
from expkit.reading.figures import Figures, figures_of
from expkit.reading.state import StateReader
from expkit.reading.whole import read_whole

__all__ = ["RunData", "label_runs", "load_run", "load_runs"]

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
        return self.feed.metrics

    def figures(self, metric: str) -> Figures | None:
        """Return what a metric's values come to; None without a finite one."""
        return figures_of(self.feed, metric)

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
    feed, results = read_whole(run)
    whole = flatten(_content(run.config))
    found = {name: value for name, value in whole.items() if name.startswith(_ENVIRONMENT) and value is not None}
    state = StateReader(feed).read().state
    if state == "unknown":  # its files may be damaged, or it has a results.json alone
        state = entry_of(run).state
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
