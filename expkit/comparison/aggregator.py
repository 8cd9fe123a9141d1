"""`ResultsAggregator`: tables and statistics of parsed results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from expkit.comparison.configs import seed_of
from expkit.comparison.parser import ResultsParser
from expkit.comparison.statistics import difference, estimate
from expkit.errors import UserError
from expkit.nested import MISSING
from expkit.table import Table
from expkit.telling import direction_of, telling_rank

__all__ = ["ResultsAggregator"]

_MOST = 8


class ResultsAggregator:
    """Puts experiments side by side: what `ResultsParser.parse` returns, or dictionaries of the same form.

    Attributes:
        experiments: in the order in which they came.
    """

    def __init__(self, experiments: Sequence[Mapping[str, Any]] = ()) -> None:
        self.experiments: list[Mapping[str, Any]] = []
        self.add(experiments)

    def load_from_parser(self, parser: ResultsParser) -> None:
        """Add what a parser finds.

        Raises:
            UserError: it finds nothing, or is no parser.
        """
        given: object = parser
        if not isinstance(given, ResultsParser):
            what = type(given).__name__
            raise UserError(f"load_from_parser takes ResultsParser(PATH), not {what}; add() takes experiments")
        self.add(parser.parse())

    def add(self, experiments: Sequence[Mapping[str, Any]]) -> None:
        """Add experiments, each with `name` and `final_metrics`.

        Raises:
            UserError: one has not.
        """
        for experiment in experiments:
            if "name" not in experiment or not isinstance(experiment.get("final_metrics"), Mapping):
                raise UserError("ResultsAggregator: an experiment needs a name and final_metrics (metric -> number)")
            self.experiments.append(experiment)

    @property
    def metrics(self) -> list[str]:
        """The names of the final metrics that are numbers in any experiment: the most frequent first, and last what
        tells of the machine and the progress alone.
        """
        count: dict[str, int] = {}
        for experiment in self.experiments:
            for name in experiment["final_metrics"]:
                count[name] = count.get(name, 0) + (_number(experiment, name) is not None)
        dull = telling_rank("") + 1
        ranks = {name: telling_rank(name) for name in count if count[name]}
        return sorted(ranks, key=lambda name: (ranks[name] >= dull, -count[name], ranks[name]))

    def generate_comparison_table(
        self,
        metrics: Sequence[str] | None = None,
        format: Literal["text", "markdown", "csv", "latex"] = "text",
    ) -> str:
        """Return a row for each experiment, a column for each final metric; the best in a column has an asterisk.

        Args:
            metrics: columns; None: the first eight of `metrics`.
            format: of the text. CSV has no asterisks.

        Raises:
            UserError: there is no experiment, or no such metric or format.
        """
        if format not in ("text", "markdown", "csv", "latex"):
            raise UserError(f"format={format}: choose text, markdown, csv or latex")
        names = self._known(metrics) if metrics is not None else self.metrics[:_MOST]
        if not self.experiments:
            raise UserError("ResultsAggregator: there is no experiment to compare; load_from_parser adds some")
        columns = [[_number(experiment, name) for experiment in self.experiments] for name in names]
        if format != "csv":
            columns = [_marked(name, column) for name, column in zip(names, columns, strict=True)]
        titles = [str(experiment["name"]) for experiment in self.experiments]
        rows = [
            [title, *(MISSING if cell is None else cell for cell in row)]
            for title, *row in zip(titles, *columns, strict=True)
        ]
        table = Table(f"{len(rows)} experiments" if len(rows) != 1 else "1 experiment", ["experiment", *names], rows)
        made: str = getattr(table, format)()
        return made

    def generate_summary_statistics(self) -> dict[str, dict[str, Any]]:
        """Return metric -> n, mean, std (with n - 1), low and high (95 % confidence interval of the mean, Student's t),
        min, max, median, of the experiments that have it; std, low and high are None of a single one.
        """
        found = {name: estimate(self._values(name)) for name in self.metrics}
        return {name: asdict(each) for name, each in found.items() if each is not None}

    def compare_groups(self, first: Sequence[str], second: Sequence[str], metric: str) -> dict[str, Any] | None:
        """Return by how much two groups of experiments differ: paired by seed where at least two seeds are in both.

        Args:
            first: names of experiments.
            second: names of others.
            metric: a final metric.

        Returns:
            mean (second less first), low and high (95 % confidence interval), t, p (two-sided), n and paired; None
            where there are fewer than two values in a group. `expkit.comparison.statistics.Difference` says more.

        Raises:
            UserError: there is no such experiment or metric.
        """
        self._known([metric])
        found = difference(self._by_seed(first, metric), self._by_seed(second, metric))
        return asdict(found) if found is not None else None

    def _by_seed(self, names: Sequence[str], metric: str) -> dict[Any, float]:
        members = [experiment for experiment in self.experiments if experiment["name"] in names]
        absent = set(names) - {experiment["name"] for experiment in members}
        if absent:
            raise UserError(f"ResultsAggregator: there is no experiment {sorted(absent)[0]}")
        seeds = [seed_of(experiment.get("seed")) for experiment in members]
        return {
            seed if seed is not None and seeds.count(seed) == 1 else (id(experiment), place): value
            for place, (seed, experiment) in enumerate(zip(seeds, members, strict=True))
            if (value := _number(experiment, metric)) is not None
        }

    def _values(self, name: str) -> list[float]:
        return [value for experiment in self.experiments if (value := _number(experiment, name)) is not None]

    def _known(self, names: Sequence[str]) -> Sequence[str]:
        unknown = [name for name in names if name not in self.metrics]
        if unknown:
            raise UserError(f"there is no final metric {unknown[0]}; there are {', '.join(self.metrics[:10])}")
        return names


def _number(experiment: Mapping[str, Any], name: str) -> float | None:
    value = experiment["final_metrics"].get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return math.inf if value > 0 else -math.inf


def _marked(name: str, column: Sequence[float | None]) -> list[Any]:
    """Return a column in which the best of several values has an asterisk."""
    finite = [value for value in column if value is not None and math.isfinite(value)]
    direction = direction_of(name)
    if direction is None or len(finite) < 2 or min(finite) == max(finite):
        return list(column)
    best = min(finite) if direction == "min" else max(finite)
    return [f"{value:.5g} *" if value == best else value for value in column]
