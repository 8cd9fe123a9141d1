"""The tables of a report, for pages and for Markdown alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from expkit.comparison.compare import Comparison
from expkit.comparison.configs import differences, without_identity
from expkit.comparison.tables import tables_of
from expkit.lenient_json import dump_json
from expkit.report.content import Report, RunPart
from expkit.report.privacy import private
from expkit.snapshots.reading import quick_problem
from expkit.spans import clock
from expkit.table import Table, shown

__all__ = [
    "best_metric", "comparison_tables", "configuration_table", "difference_table", "environment_tables", "events_table",
    "metrics_table", "rest_table", "severities", "snapshots_table", "summary_table", "typed_table",
]  # fmt: skip

_MOST_REST = 500
#: Of these no table tells in what runs differ: they always do.
_OWN = ("timestamp", "command")


def summary_table(report: Report) -> Table:
    """Return how each run stands, and its best value; of one run, item by item."""
    rows = [_summary(report, part) for part in report.runs]
    if report.single:
        part = report.runs[0]
        items = [*rows[0].items(), ("model", _model(part)), ("directory", part.place)]
        return Table(
            "", ["item", "value"], [[name, value] for name, value in items if name != "run" and value is not None]
        )
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return Table("", columns, [[row[name] for name in columns] for row in rows])


def best_metric(comparison: Comparison) -> str | None:
    """Return the metric by which runs are judged: that of their checkpoints, or the first with a known direction."""
    own = [run.config.get("checkpoint.monitor") for run in comparison.runs[:1]]
    names = [*(name for name in comparison.metrics if name in own), *comparison.metrics]
    return next((name for name in names if comparison.direction(name) is not None), None)


def _summary(report: Report, part: RunPart) -> dict[str, Any]:
    comparison, state, metric = report.comparison, part.state, best_metric(report.comparison)
    figures = part.data.figures(metric) if metric is not None else None
    best = figures.best(comparison.direction(metric)) if figures is not None and metric is not None else (None, None)
    told = f"{state.state}: {state.text}" if state.text else state.state
    groups = {id(run): group.label for group in comparison.groups for run in group.runs}
    events = ", ".join(
        f"{part.counted[name]} {name.lower()}" for name in ("CRITICAL", "WARNING", "INFO") if part.counted.get(name)
    )
    return {
        "run": part.label,
        "group": groups.get(id(part.data)),
        "state": told if report.single or state.state not in ("finished", "running") else state.state,
        "steps": _steps(state.step, state.total_steps),
        "time": clock(part.data.feed.duration),
        "seed": part.data.seed,
        f"best {metric}": best[0],
        "at step": best[1],
        "alerts": events or "none",
        "started": part.facts.get("timestamp") if report.single else None,
        "id": part.data.name if part.data.name != part.label else None,
    }


def comparison_tables(report: Report) -> list[Table]:
    """Return what each metric came to in each run, and over the runs of a group."""
    head = 2 if report.comparison.differences else 1
    return tables_of(report.comparison)[head:]


def difference_table(report: Report) -> Table | None:
    """Return in what configurations and environments differ; None if they do not."""
    return tables_of(report.comparison)[1] if report.comparison.differences else None


def metrics_table(report: Report) -> Table:
    """Return what the metrics of one run came to."""
    return _metrics(report, report.comparison.metrics, "What each metric came to")


def rest_table(report: Report) -> Table | None:
    """Return the same of the metrics that have no curve in the report; None if there are none."""
    names = report.comparison.left_out
    if not names:
        return None
    note = f"{len(names) - _MOST_REST} more are left out." if len(names) > _MOST_REST else ""
    return _metrics(report, names[:_MOST_REST], "Other metrics", note)


def _metrics(report: Report, names: Sequence[str], title: str, note: str = "") -> Table:
    run = report.runs[0].data
    rows: list[list[Any]] = []
    for name in names:
        figures = run.figures(name)
        curve = run.feed.curves[name]
        if figures is None:
            rows.append([name, *[None] * 5, 0, curve.nonfinite])
            continue
        best = figures.best(report.comparison.direction(name))
        rows.append([name, figures.last, *best, figures.min, figures.max, figures.count, figures.nonfinite])
    columns = ["metric", "last", "best", "at step", "min", "max", "values", "not finite"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table(title, columns, rows, note)


def typed_table(report: Report) -> Table | None:
    """Return what was typed to configure the one run; None if nothing was, or nobody knows."""
    typed = report.runs[0].typed
    pairs = [str(each).partition("=") for each in typed]
    return Table("What was typed", ["key", "value"], [[key, value] for key, _, value in pairs]) if pairs else None


def configuration_table(report: Report) -> Table | None:
    """Return the whole configuration, of several runs what they have in common; None if none is known."""
    configs = [without_identity(part.data.config) for part in report.runs]
    known = [config for config in configs if config]
    if not known:
        return None
    differing = differences(known)
    rows = [[key, _plain(value)] for key, value in known[0].items() if key not in differing]
    note = f"Of {len(configs) - len(known)} run(s) no configuration is known." if len(known) < len(configs) else ""
    return Table("" if report.single else "What all have in common", ["key", "value"], rows, note)


def environment_tables(report: Report) -> list[Table]:
    """Return what runs were trained with: what they have in common, and what is of each; none if nothing is known."""
    known = [part for part in report.runs if part.facts]
    if not known:
        return []
    if report.single:
        return [Table("", ["item", "value"], [[key, _plain(value)] for key, value in known[0].facts.items()])]
    differing = differences([part.facts for part in known])
    own = dict.fromkeys([key for key in _OWN if any(key in part.facts for part in known)])
    columns = [*own, *(key for key in differing if key not in own)]
    common = [[key, _plain(value)] for key, value in known[0].facts.items() if key not in columns]
    each = [[part.label, *(_plain(part.facts.get(key, "missing")) for key in columns)] for part in known]
    return [Table("What all have in common", ["item", "value"], common), Table("Of each run", ["run", *columns], each)]


def events_table(part: RunPart) -> Table | None:
    """Return the events of a run, the worst first; None if there are none."""
    if not part.events:
        return None
    rows = [
        [
            each.severity.lower(),
            each.step,
            each.kind,
            each.rule if each.rule != each.kind else "",
            each.message,
            _values(each.values),
        ]
        for each in part.events
    ]
    columns = ["severity", "step", "kind", "rule", "message", "values"]
    keep = [
        place for place, name in enumerate(columns) if name not in ("rule", "values") or any(row[place] for row in rows)
    ]
    more = sum(part.counted.values()) - len(rows)
    note = f"{more} more of lower severity, or earlier, are left out." if more > 0 else ""
    return Table("", [columns[place] for place in keep], [[row[place] for place in keep] for row in rows], note)


def snapshots_table(report: Report) -> Table | None:
    """Return the snapshots of all runs; None if there are none."""
    rows = [
        [
            part.label, each.path.name, f"{each.time:%Y-%m-%d %H:%M:%S}", private(each.reason), each.step, each.loss,
            each.checkpoint_step, f"{each.size / 1e6:,.1f} MB", _problem(each),
        ]
        for part in report.runs
        for each in part.snapshots
    ]  # fmt: skip
    columns = ["run", "snapshot", "time", "reason", "step", "loss", "checkpoint of step", "size", "damage"]
    drop = {"run"} if report.single else set()
    drop |= set() if any(row[-1] for row in rows) else {"damage"}
    keep = [place for place, name in enumerate(columns) if name not in drop]
    return Table("", [columns[at] for at in keep], [[row[at] for at in keep] for row in rows]) if rows else None


def severities(part: RunPart) -> str:
    """Return how many events there are of which severity, in words."""
    told = Counter(part.counted)
    return ", ".join(f"{told[name]} {name.lower()}" for name in ("CRITICAL", "WARNING", "INFO") if told[name])


def _problem(snapshot: Any) -> str:
    try:
        return quick_problem(snapshot) or ""
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _model(part: RunPart) -> str | None:
    name, count = part.facts.get("model.class"), part.facts.get("model.parameters")
    if name is None:
        return None
    return f"{name}, {count:,} parameters" if isinstance(count, int) else str(name)


def _steps(step: int | None, total: int | None) -> str | None:
    if step is None:
        return None
    return f"{step:,}" if total in (None, step) else f"{step:,} of {total:,}"


def _values(values: Mapping[str, Any]) -> str:
    told = {name: "not finite" if value is None else shown(value) for name, value in values.items()}  # JSON has no NaN
    return ", ".join(f"{name} {private(value)}" for name, value in told.items())


def _plain(value: Any) -> Any:
    """Return a value of a configuration as it is written there: lists, null and numbers with all their digits."""
    if isinstance(value, str):
        return value
    try:
        return dump_json(value).decode()
    except (TypeError, ValueError):
        return str(value)
