"""A comparison as tables, and as plain JSON values."""

from __future__ import annotations

import math
from typing import Any

from expkit.comparison.compare import Comparison
from expkit.comparison.configs import written_value
from expkit.comparison.run_data import RunData
from expkit.comparison.statistics import CONFIDENCE
from expkit.nested import MISSING
from expkit.spans import clock
from expkit.table import Table, json_value

__all__ = ["tables_of", "tidy_table", "to_json"]

_WHICH = {
    "last": "the last value",
    "best": "the best value",
    "min": "the least value",
    "max": "the greatest value",
    "at": "the value where the shortest run ends",
}


def tables_of(comparison: Comparison) -> list[Table]:
    """Return the tables: the runs, in what they differ, and each metric; for groups their estimates and tests."""
    tables = [_runs(comparison)]
    if comparison.differences:
        tables.append(_differences(comparison))
    for metric in comparison.metrics:
        tables.append(_metric(comparison, metric))
        if comparison.groups:
            tables.append(_groups(comparison, metric))
    return tables


def tidy_table(comparison: Comparison) -> Table:
    """Return one table with a row for each run and metric, and the configuration in which they differ: for programs."""
    keys = [f"config/{key}" for key in comparison.differences]
    columns = ["run", "group", "state", "seed", *keys, "metric", *_COLUMNS[1:]]
    groups = {id(run): group.label for group in comparison.groups for run in group.runs}  # ids of runs may be the same
    rows = []
    for place, run in enumerate(comparison.runs):
        config = [values[place] for values in comparison.differences.values()]
        for metric in comparison.metrics:
            row = _row(comparison, run, place, metric)[1:]
            rows.append([run.name, groups.get(id(run)), run.state, run.seed, *config, metric, *row])
    return Table("comparison", columns, rows)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return all of it as plain JSON values."""
    return {
        "runs": [
            {
                "name": run.name,
                "path": str(run.feed.run.root),
                "state": run.state,
                "seed": json_value(run.seed),
                "step": json_value(run.feed.last.get("step")),
                "seconds": run.feed.duration,
                "differs": {  # what a run has not is not there; null is a value
                    key: json_value(values[place])
                    for key, values in comparison.differences.items()
                    if values[place] is not MISSING
                },
            }
            for place, run in enumerate(comparison.runs)
        ],
        "along": comparison.axis.along,
        "metrics": {
            metric: {
                "better": comparison.direction(metric),
                "runs": [
                    {
                        key: json_value(cell)
                        for key, cell in zip(_KEYS, _row(comparison, run, place, metric), strict=True)
                    }
                    for place, run in enumerate(comparison.runs)
                ],
                **({"groups": _groups_json(comparison, metric)} if comparison.groups else {}),
            }
            for metric in comparison.metrics
        },
        "left_out": list(comparison.left_out),
        "notes": list(comparison.notes),
    }


_COLUMNS = ("run", "last", "best", "at step", "min", "max", "common", "values", "not finite")
_KEYS = ("run", "last", "best", "best_step", "min", "max", "common", "values", "nonfinite")


def _runs(comparison: Comparison) -> Table:
    rows = [
        [run.label, run.state, _whole(run.feed.last.get("step")), clock(run.feed.duration), _text(run.seed), run.name]
        for run in comparison.runs
    ]
    return Table("Runs", ["run", "state", "steps", "time", "seed", "id"], rows)


def _differences(comparison: Comparison) -> Table:
    """Return the keys as columns where there are fewer of them than runs, which makes the narrower table."""
    title, found = "In what they differ", comparison.differences
    if len(found) < len(comparison.runs):
        rows = [
            [run.label, *(_setting(values[place]) for values in found.values())]
            for place, run in enumerate(comparison.runs)
        ]
        return Table(title, ["run", *found], rows)
    rows = [[key, *map(_setting, values)] for key, values in found.items()]
    return Table(title, ["key", *(run.label for run in comparison.runs)], rows)


def _metric(comparison: Comparison, metric: str) -> Table:
    rows = [_row(comparison, run, place, metric) for place, run in enumerate(comparison.runs)]
    common = comparison.common_end(metric)
    unit = " s" if comparison.axis.along == "time" else ""
    at = f"at {comparison.axis.along} {common[0]:,.6g}{unit}" if common is not None else "in common"
    columns = [at if column == "common" else column for column in _COLUMNS]
    keep = [place for place, column in enumerate(_COLUMNS) if column != "not finite" or any(row[-1] for row in rows)]
    better = {"min": " (less is better)", "max": " (more is better)", None: ""}[comparison.direction(metric)]
    return Table(
        f"{metric}{better}", [columns[place] for place in keep], [[row[place] for place in keep] for row in rows]
    )


def _row(comparison: Comparison, run: RunData, place: int, metric: str) -> list[Any]:
    figures = run.figures(metric)
    if figures is None:
        curve = run.feed.curves.get(metric)
        return [run.label, *[MISSING] * 6, 0, curve.nonfinite if curve is not None else 0]
    best, best_step = figures.best(comparison.direction(metric))
    common = comparison.common_end(metric)
    shared: Any = common[1][place] if common is not None else math.nan
    shared = MISSING if math.isnan(shared) else shared
    extremes = [figures.min, figures.max]
    return [run.label, figures.last, best, best_step, *extremes, shared, figures.count, figures.nonfinite]


def _groups(comparison: Comparison, metric: str) -> Table:
    rows = [_group_row(comparison, group, metric) for group in comparison.groups]
    percent = f"{CONFIDENCE:.0%} interval"
    columns = ["group", "n", "mean", "std", percent, "min", "max"]
    note = f"Of each run {_WHICH[comparison.request.which]}."
    if len(comparison.groups) > 1:
        columns += ["difference", f"its {percent}", "p", "test"]
        baseline = comparison.baseline
        note += f" Differences are to {baseline.label if baseline is not None else ''}; p of each by itself, two-sided."
    return Table(f"{metric} over runs", columns, rows, note)


def _group_row(comparison: Comparison, group: Any, metric: str) -> list[Any]:
    found = comparison.estimate(group, metric)
    row: list[Any] = [group.label, *[MISSING] * 6]
    if found is not None:
        interval = _interval(found.low, found.high)
        row = [group.label, found.n, found.mean, found.std, interval, found.min, found.max]
    if len(comparison.groups) < 2:
        return row
    if group is comparison.baseline:
        return [*row, None, None, None, "baseline"]
    tested = comparison.difference(group, metric)
    if tested is None:
        return [*row, None, None, None, "too few runs"]
    test = f"paired t, {tested.n} seeds" if tested.paired else "Welch's t: the seeds do not match"
    return [*row, tested.mean, _interval(tested.low, tested.high), tested.p, test]


def _groups_json(comparison: Comparison, metric: str) -> list[dict[str, Any]]:
    found = []
    for group in comparison.groups:
        known, tested = comparison.estimate(group, metric), comparison.difference(group, metric)
        found.append(
            {
                "group": group.label,
                "runs": [run.name for run in group.runs],
                "estimate": _fields(known),
                "difference": _fields(tested),
            }
        )
    return found


def _fields(figures: Any) -> dict[str, Any] | None:
    if figures is None:
        return None
    return {name: json_value(getattr(figures, name)) for name in figures.__slots__}


def _interval(low: float | None, high: float | None) -> str | None:
    return f"{low:.5g} to {high:.5g}" if low is not None and high is not None else None


def _setting(value: Any) -> Any:
    """Return a value of a configuration with all its digits: those that tell runs apart may be the last ones."""
    return value if value is MISSING else written_value(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _whole(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) else None
