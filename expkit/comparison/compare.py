"""Several runs side by side: in what they were different, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from expkit.comparison.alignment import Band, band
from expkit.comparison.configs import (
    differences,
    find_label,
    is_seed,
    short_names,
    value_in_label,
    without_identity,
)
from expkit.comparison.groups import LONGEST_LABEL, MOST_IN_LABEL, Group, grouped, near
from expkit.comparison.run_data import RunData
from expkit.comparison.statistics import Difference, Estimate, difference, estimate
from expkit.errors import UserError
from expkit.journal import is_volatile
from expkit.nested import MISSING
from expkit.reading.axis import Along, Axis, axis_of
from expkit.telling import Direction, direction_of, telling_rank

__all__ = ["Comparison", "Group", "Request", "Which", "compare"]

Which = Literal["last", "best", "min", "max", "at"]
_MOST_METRICS = 8


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be compared, and how.

    Attributes:
        metrics: names or patterns as in a shell, in this order; None: what is validated, then what is trained.
        along: what curves are aligned by.
        group_by: `seed`: runs that differ in their seeds alone are a group; a configuration key: runs in which it is
            the same are one. None: no groups.
        baseline: label of the group that the others are held against; None: the first one.
        which: the value of a run that its group is summarized by: its last one, its best, or the one where the
            shortest run ends (`at`).
        minimize: metrics of which less is better, whatever their names say.
        maximize: metrics of which more is better.
    """

    metrics: Sequence[str] | None = None
    along: Along = "step"
    group_by: str | None = None
    baseline: str | None = None
    which: Which = "last"
    minimize: Sequence[str] = ()
    maximize: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        request: what was wanted.
        runs: in their order.
        metrics: that are compared.
        left_out: metrics that there are besides.
        axis: what curves are aligned by.
        differences: configuration or environment key -> its value in each run, MISSING where there is none.
        groups: none without `group_by`.
        notes: what to know of it, a sentence each.
    """

    request: Request
    runs: Sequence[RunData]
    metrics: Sequence[str]
    left_out: Sequence[str]
    axis: Axis
    differences: Mapping[str, Sequence[Any]]
    groups: Sequence[Group] = ()
    notes: Sequence[str] = ()
    _ends: dict[str, Any] = field(default_factory=dict)

    def direction(self, metric: str) -> Direction | None:
        """Return whether less or more of a metric is better; None if nobody has said and its name does not tell."""
        if metric in self.request.minimize:
            return "min"
        if metric in self.request.maximize:
            return "max"
        found = (direction_of(metric, run.config) for run in self.runs)
        return next((each for each in found if each is not None), None)

    def common_end(self, metric: str) -> tuple[float, Sequence[float]] | None:
        """Return the place where the first of the runs that have the metric ends, and the values of all runs there.

        Between its own places a curve is a straight line. NaN where a run has none; None without any such place.
        """
        if metric not in self._ends:
            ends = [run.end(metric, self.axis) for run in self.runs]
            end = min((each for each in ends if math.isfinite(each)), default=math.nan)
            values = [run.value_at(metric, self.axis, end) for run in self.runs]
            self._ends[metric] = (end, values) if any(map(math.isfinite, values)) else None
        found: tuple[float, Sequence[float]] | None = self._ends[metric]
        return found

    def value(self, run: RunData, metric: str) -> float:
        """Return the value of a run by which its group is summarized; NaN if there is none."""
        figures = run.figures(metric)
        if figures is None:
            return math.nan
        if self.request.which == "at":
            common = self.common_end(metric)
            return common[1][list(self.runs).index(run)] if common is not None else math.nan
        if self.request.which == "best":
            best, _ = figures.best(self.direction(metric))
            return math.nan if best is None else best
        found: float = getattr(figures, self.request.which)
        return found

    def estimate(self, group: Group, metric: str) -> Estimate | None:
        """Return what a group's runs come to."""
        return estimate([self.value(run, metric) for run in group.runs])

    def band(self, group: Group, metric: str) -> Band:
        """Return the mean curve of a group's runs that have the metric, with its confidence interval.

        Of runs with so many values that they are kept in bins, each value is the mean of a bin.
        """
        curves = [run.curve(metric, self.axis) for run in group.runs]
        return band([curve.means() for curve in curves if curve.bounds() is not None])

    @property
    def baseline(self) -> Group | None:
        """The group that the others are held against."""
        wanted = self.request.baseline
        return next((group for group in self.groups if wanted is None or group.label == wanted), None)

    def difference(self, group: Group, metric: str) -> Difference | None:
        """Return by how much a group differs from the baseline."""
        if self.baseline is None or group is self.baseline:
            return None
        return difference(self._by_seed(self.baseline, metric), self._by_seed(group, metric))

    def _by_seed(self, group: Group, metric: str) -> dict[Any, float]:
        """Return seed -> value; runs whose seed is not known, or another one's too, have a key of their own."""
        seeds = [run.seed for run in group.runs]  # None, a number or a text
        return {
            run.seed if run.seed is not None and seeds.count(run.seed) == 1 else (group.label, place): self.value(
                run, metric
            )
            for place, run in enumerate(group.runs)
        }


def compare(runs: Sequence[RunData], request: Request | None = None) -> Comparison:
    """Compare runs.

    Raises:
        UserError: a metric, a key or a baseline that there is not was asked for.
    """
    request = request or Request()
    configs = [without_identity(run.config) for run in runs]
    environments = [run.environment for run in runs]
    known = sorted({name for run in runs for name in run.metrics})
    curves = {name for run in runs for name, curve in run.feed.curves.items() if curve.count > 1}
    metrics = _chosen(known, request.metrics, curves)
    for name in (*request.minimize, *request.maximize):
        if name not in known:
            raise UserError(f"--minimize and --maximize: there is no metric {name}{near(name, known)}")
    if both := sorted({*request.minimize} & {*request.maximize}):
        raise UserError(f"--minimize and --maximize {both[0]}: choose one of them")
    if request.along == "samples" and not any("samples" in run.feed.curves for run in runs):
        raise UserError("--x samples: no run says how many samples it was trained with; choose step, epoch or time")
    notes: list[str] = []
    found = _among_known(configs)
    if unknown := [run.label for run, config in zip(runs, configs, strict=True) if not config]:
        notes.append(f"no configuration is known of {', '.join(unknown)}")
    runs = _labelled(runs, found) if not unknown else runs
    groups = grouped(runs, configs, found, request.group_by, notes) if request.group_by else []
    if request.baseline is not None:
        request = replace(request, baseline=find_label(request.baseline, [group.label for group in groups]))
    made = Comparison(
        request,
        runs,
        metrics,
        [name for name in known if name not in metrics and not is_volatile(name)],
        axis_of([run.feed for run in runs], request.along),
        {**found, **_among_known(environments)},
        groups,
        notes,
    )
    unclear = [name for name in metrics if groups and request.which == "best" and made.direction(name) is None]
    if unclear:
        notes.append(f"whether less or more is better is not known of {', '.join(unclear)}: --minimize or --maximize")
    return made


def _chosen(known: Sequence[str], wanted: Sequence[str] | None, curves: Collection[str]) -> list[str]:
    if wanted is None:
        telling = [name for name in known if name.count("/") < 2 and telling_rank(name) <= telling_rank("")]
        telling = [name for name in telling if name in curves] or telling
        return sorted(telling, key=telling_rank)[:_MOST_METRICS]
    found: list[str] = []
    for pattern in wanted:
        matches = [name for name in known if name == pattern] or [name for name in known if fnmatchcase(name, pattern)]
        if not matches:
            raise UserError(f"--metrics {pattern}: no run has such a metric{near(pattern, known)}")
        found += [name for name in matches if name not in found]
    return found


def _among_known(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return in what configurations differ, apart from those that are not known: MISSING there."""
    known = [place for place, config in enumerate(configs) if config]
    found = differences([configs[place] for place in known])
    return {
        key: [values[known.index(place)] if place in known else MISSING for place in range(len(configs))]
        for key, values in found.items()
    }


def _labelled(runs: Sequence[RunData], found: Mapping[str, Sequence[Any]]) -> Sequence[RunData]:
    """Return runs that are called by what they differ in, if that is little and tells them apart."""
    keys = [key for key in found if not is_seed(key) or key == "trainer.seed"]
    short = short_names(keys)
    if not 1 <= len(keys) <= MOST_IN_LABEL:
        return runs
    told = {key: [value_in_label(key, value) for value in found[key]] for key in keys}
    labels = [", ".join(f"{short[key]} {told[key][place]}" for key in keys) for place in range(len(runs))]
    if len(set(labels)) < len(labels) or max(map(len, labels)) > LONGEST_LABEL:
        return runs
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]
