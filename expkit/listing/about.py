"""All that a run's folder tells of one run, gathered for whoever wants to understand it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from expkit.events import read_events
from expkit.experiment import RunDir
from expkit.listing.checkpoints import describe
from expkit.listing.entry import RunEntry
from expkit.nested import value_at
from expkit.snapshots.reading import list_snapshots
from expkit.telling import direction_of, telling_rank

__all__ = ["about"]

_EVENTS = 5
_SNAPSHOTS = 3
_READ_JOURNAL = 32 << 20  # bytes: a larger one is not read for its best value


def about(entry: RunEntry) -> dict[str, Any]:
    """Return plain JSON values, without those that there is nothing to say of.

    duration_seconds, restarts (with the steps of `resumes`), ended_before (how it ended each time), seed, host,
    hardware, processes {count, strategy, hosts}, model, dataset, parent, final_metrics, best {metric, value, step,
    checkpoint}, events {count, kinds, last}, snapshots {count, last}, checkpoint_files {count, total_bytes, newest,
    best, resume_step}, pictures, undelivered {tracker: {...}}, offline_wandb (parts that were not uploaded).
    """
    run, config = entry.run, entry.config
    found: dict[str, Any] = {
        "duration_seconds": entry.duration,
        "restarts": entry.restarts or None,
        "resumes": [each.get("step") for each in config.get("resumes") or () if isinstance(each, Mapping)],
        "ended_before": [each for each in _list(entry.status.get("ended_before")) if isinstance(each, Mapping)],
        "seed": config.get("seed"),
        "host": entry.host,
        "hardware": _mapping(config.get("hardware")),
        "processes": _mapping(config.get("processes")),
        "model": _mapping(config.get("model")),
        "dataset": _mapping(config.get("dataset")),
        "parent": _mapping(config.get("parent")),
        "final_metrics": dict(entry.final_metrics),
        "best": _best(entry),
        "events": _events(run),
        "snapshots": _snapshots(run),
        "checkpoint_files": _checkpoints(run),
        "pictures": _pictures(run),
        "undelivered": _undelivered(entry.status),
        "offline_wandb": _offline(run),
    }
    return {name: value for name, value in found.items() if value not in (None, {}, [])}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _best(entry: RunEntry) -> dict[str, Any]:
    """Return the best value of the metric by which checkpoints are compared, as results.json or the journal has it."""
    journal = entry.run.metrics
    try:
        size = journal.stat().st_size
    except OSError:
        size = 0
    if (entry.state != "finished" and 0 < size <= _READ_JOURNAL) or not entry.final_metrics:
        found = _best_of_journal(entry) if size <= _READ_JOURNAL else {}
        if found:
            return found
    final = entry.final_metrics  # of a run that has not finished they may be half a minute old
    names = [name.removeprefix("best_") for name in final if name.startswith("best_") and name != "best_step"]
    said = entry.config_value("checkpoint.monitor", None)
    if names:
        metric = said if said in names else min(names, key=lambda name: (telling_rank(name), name))
        own = metric == said or said is None  # else step and checkpoint are another metric's
        checkpoint = entry.results.get("best_checkpoint") if own else None
        return {
            "metric": metric,
            "value": final[f"best_{metric}"],
            "step": final.get("best_step") if own else None,
            "checkpoint": checkpoint if isinstance(checkpoint, str) else None,
        }
    return {}


def _best_of_journal(entry: RunEntry) -> dict[str, Any]:
    from expkit.reading.figures import figures_of
    from expkit.reading.whole import read_whole

    try:
        feed, _ = read_whole(entry.run)
    except UserError:
        return {}
    config = {key: value_at(feed.config, key) for key in ("checkpoint.monitor", "checkpoint.mode")}
    said = config["checkpoint.monitor"]
    order = sorted(feed.metrics, key=lambda each: (each != said, telling_rank(each), not each.endswith("loss"), each))
    for metric in order:
        direction, figures = direction_of(metric, config), figures_of(feed, metric)
        if direction is not None and figures is not None:
            value, step = figures.best(direction)
            return {"metric": metric, "value": value, "step": step, "checkpoint": None}
    return {}


def _events(run: RunDir) -> dict[str, Any]:
    found = []
    for path in (run.events, run.logs / "watch_events.jsonl"):
        try:
            found += read_events(path)
        except OSError:
            continue
    found.sort(key=lambda each: (each["step"], str(each.get("time", ""))))
    if not found:
        return {}
    return {"count": len(found), "kinds": dict(Counter(each["kind"] for each in found)), "last": found[-_EVENTS:]}


def _snapshots(run: RunDir) -> dict[str, Any]:
    try:
        found = list_snapshots(run)
    except OSError:
        return {}
    last = [{"path": str(each.path), "reason": each.reason, "step": each.step} for each in found[-_SNAPSHOTS:]]
    return {"count": len(found), "last": last} if found else {}


def _checkpoints(run: RunDir) -> dict[str, Any]:
    if not run.checkpoints.is_dir():
        return {}
    try:
        listing = describe(run.checkpoints)
    except UserError:
        return {}
    entries = listing["checkpoints"]
    there = [entry for entry in entries if entry["aside"] is None]
    best = next((entry["step"] for entry in there if "best" in entry["uses"]), None)
    return {
        "count": len(there),
        "set_aside": len(entries) - len(there),
        "total_bytes": listing["total_bytes"],
        "newest": max((entry["step"] for entry in there), default=None),
        "best": best,
        "resume_step": listing["resume_step"],
    } if entries else {}  # fmt: skip


def _pictures(run: RunDir) -> list[str]:
    """Return the newest picture of each kind."""
    try:
        drawn = [(path.stat().st_mtime, path) for path in run.visualizations.glob("*.png")]
    except OSError:
        return []
    newest = {path.stem.rpartition("_step_")[0] or path.stem: path for _, path in sorted(drawn)}
    return [str(path) for path in newest.values()]


def _undelivered(status: Mapping[str, Any]) -> dict[str, Any]:
    trackers = _mapping(status.get("trackers"))
    return {
        name: trouble
        for name, trouble in trackers.items()
        if isinstance(trouble, Mapping) and (trouble.get("undelivered") or 0) > 0
    }


def _offline(run: RunDir) -> list[str]:
    """Return the folders of W&B's that were not uploaded, of a run that may still be written to."""
    return sorted(
        str(path)
        for path in Path(run.root / "wandb").glob("offline-run-*")
        if not any(path.glob("*.wandb.synced")) and any(path.glob("*.wandb"))
    )


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
