"""What the monitor says, for programs: plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from expkit.svd.alerts import Alert, criteria
from expkit.svd.metrics import MEASURED, SVDMetrics
from expkit.svd.monitor import SVDMonitor
from expkit.svd.text import progress

__all__ = ["analysis_report", "summary_report"]


def analysis_report(metrics: SVDMetrics, mode: str, alerts: Iterable[Alert]) -> dict[str, Any]:
    """Return an analysis and what is said of it: a line that the log parser reads, too."""
    said = [{"level": alert.level.value, "kind": alert.kind, "text": alert.text} for alert in alerts]
    return {**_numbers(asdict(metrics)), "mode": mode, "alerts": said}


def summary_report(monitor: SVDMonitor, source: str, notes: Sequence[str]) -> dict[str, Any]:
    """Return all that is known of all layers."""
    return {
        "source": source,
        "thresholds": asdict(monitor.thresholds),
        "calibrated": monitor.calibrated,
        "layers": {name: _layer(monitor, name) for name in monitor.layers},
        "notes": list(notes),
    }


def _layer(monitor: SVDMonitor, name: str) -> dict[str, Any]:
    history, limits = monitor.layers[name], monitor.thresholds_of(name)
    latest, each = history.latest, criteria(history.latest, limits)
    distances = {"principal_alignment": limits.principal_danger - latest.principal_alignment}
    distances |= {one.metric: one.threshold - one.value for one in each}
    return {
        **analysis_report(latest, history.mode, monitor.alerts(name)),
        "chance": history.chance,
        "thresholds": _numbers(asdict(limits)),
        "distances": _numbers({metric: distances[metric] for metric in MEASURED}),
        "criteria_met": sum(one.met for one in each),
        "progress": progress(monitor, name),
        "trends": [_numbers(asdict(trend)) for trend in monitor.trends(name)],
        "switches": [asdict(switch) for switch in history.switches],
    }


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` with null for what is not finite, which JSON has no word for."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
