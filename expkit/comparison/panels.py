"""A comparison as panels, for pictures and pages."""

from __future__ import annotations

from expkit.comparison.compare import Comparison
from expkit.plots.curve import Curve
from expkit.plots.panels import Line, Panel

__all__ = ["panels_of"]


def panels_of(comparison: Comparison) -> list[Panel]:
    """Return a panel for each metric: a line for each run; of groups the mean with its 95 % confidence interval.

    Of a metric with a single value in every run, a final one, there is none.
    """
    panels = []
    for metric in comparison.metrics:
        lines = _means(comparison, metric) if comparison.groups else _runs(comparison, metric)
        if any(line.curve.count > 1 for line in lines):
            panels.append(Panel(metric, lines, along=comparison.axis.name, remark="no value yet"))
    return panels


def _runs(comparison: Comparison, metric: str) -> list[Line]:
    curves = [run.curve(metric, comparison.axis) for run in comparison.runs]
    return [
        Line(run.label, curve, place)
        for place, (run, curve) in enumerate(zip(comparison.runs, curves, strict=True))
        if curve.count or curve.nonfinite
    ]


def _means(comparison: Comparison, metric: str) -> list[Line]:
    lines = []
    for place, group in enumerate(comparison.groups):
        found = comparison.band(group, metric)
        if len(found.places):
            band = (found.places, found.low, found.high) if len(group.runs) > 1 else None
            label = f"{group.label} ({len(group.runs)} runs)" if len(group.runs) > 1 else group.label
            lines.append(Line(label, Curve(found.places.tolist(), found.mean.tolist()), place, band=band))
    return lines
