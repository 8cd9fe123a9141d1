"""What the monitor says, as lines for a terminal of 80 columns, in the layout that people know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from expkit.severity import Severity
from expkit.svd.alerts import Alert, criteria, is_close
from expkit.svd.layers import LayerHistory, Layers
from expkit.svd.metrics import SVDMetrics
from expkit.switch_thresholds import LOW_RANK, SwitchThresholds

__all__ = ["NOTHING", "WIDTH", "alert_lines", "block_lines", "overview_lines", "progress", "summary_lines"]

WIDTH = 80
NOTHING = "No metrics collected yet"

#: Continued lines begin below the text of the first.
_INDENT = " " * 11
_SIGNS = {Severity.CRITICAL: "🚨 CRITICAL", Severity.WARNING: "⚠️  WARNING", Severity.INFO: "ℹ️  INFO"}  # noqa: RUF001
_BAR = 20


def block_lines(
    metrics: SVDMetrics, mode: str, thresholds: SwitchThresholds, alerts: Sequence[Alert], chance: float | None = None
) -> Iterator[str]:
    """Yield what is said of a layer at a step: alerts, and the numbers with their thresholds.

    Args:
        metrics: the analysis.
        mode: FULL or LOW-RANK.
        thresholds: of this layer.
        alerts: to say.
        chance: p^2 of a gradient without preference, to be shown; None not to.
    """
    yield "=" * WIDTH
    yield f"Step {metrics.step} | {metrics.layer_name}"
    yield "-" * WIDTH
    for alert in alerts:
        yield from alert_lines(alert)
    yield ""
    yield "Current metrics:"
    danger = f"danger at >{thresholds.principal_danger:.3g}"
    if chance is not None:
        danger += f"; chance {chance**0.5:.3g}, excess {metrics.alignment_excess:.3g}"
    yield f"  principal_alignment: {metrics.principal_alignment:.4f} ({danger})"
    yield f"  minor_alignment:     {metrics.minor_alignment:.4f} (safe at >{thresholds.minor_safe:.3g})"
    yield f"  subspace_angle:      {metrics.subspace_angle:.4f} (stable at <{thresholds.angle_stable:.3g})"
    yield f"  reconstruction_error:{metrics.reconstruction_error:.4f} (safe at <{thresholds.recon_safe:.3g})"
    yield f"  mode:                {mode}"
    yield f"  r:                   {_rank(metrics)}"
    yield "=" * WIDTH


def alert_lines(alert: Alert) -> Iterator[str]:
    """Yield the lines of an alert, broken between its parts."""
    line = f"{_SIGNS[alert.level]}:"
    for part in alert.parts:
        if len(line) + 1 + len(part) > WIDTH and line.strip():
            yield line
            line = _INDENT + part
        else:
            line = f"{line} {part}"
    yield line


def summary_lines(monitor: Layers) -> Iterator[str]:
    """Yield the summary over all layers."""
    yield "=" * WIDTH
    yield "SVD MONITORING SUMMARY"
    yield "=" * WIDTH
    if not monitor.layers:
        yield ""
        yield NOTHING
        yield "=" * WIDTH
        return
    for name, history in monitor.layers.items():
        yield ""
        yield name
        yield from _layer_lines(monitor, name, history)
    yield "=" * WIDTH


def overview_lines(monitor: Layers) -> Iterator[str]:
    """Yield a line for each layer: how far it is on its way to LOW-RANK."""
    if not monitor.layers:
        return
    width = max(map(len, monitor.layers))
    yield "Progress towards low-rank:"
    for name, history in monitor.layers.items():
        each = criteria(history.latest, monitor.thresholds_of(name))
        share = progress(monitor, name)
        filled = round(share * _BAR)
        bar = "#" * filled + "-" * (_BAR - filled)
        met = "" if history.mode == LOW_RANK else f"  {sum(one.met for one in each)}/3 criteria met"
        yield f"  {name:<{width}}  [{bar}] {share:4.0%}  {history.mode}{met}"


def progress(monitor: Layers, layer_name: str) -> float:
    """Return how far a layer is on its way to LOW-RANK, from 0 to 1: the mean of its three criteria."""
    history = monitor.layers[layer_name]
    if history.mode == LOW_RANK:
        return 1.0
    return sum(one.progress for one in criteria(history.latest, monitor.thresholds_of(layer_name))) / 3


def _layer_lines(monitor: Layers, name: str, history: LayerHistory) -> Iterator[str]:
    latest, limits = history.latest, monitor.thresholds_of(name)
    yield f"  Latest step: {latest.step}"
    yield f"  Mode: {history.mode}"
    yield f"  Rank: {_rank(latest)}"
    yield "  Metrics:"
    yield f"    principal_alignment: {latest.principal_alignment:.4f}"
    yield f"    minor_alignment:     {latest.minor_alignment:.4f}"
    yield f"    subspace_angle:      {latest.subspace_angle:.4f}"
    yield f"    reconstruction_error:{latest.reconstruction_error:.4f}"
    yield "  Distance to switch:"
    yield f"    Clobbering threshold: {_distance(latest.principal_alignment, limits)}"
    each = angle, minor, error = criteria(latest, limits)
    yield f"    Optimal conditions: {sum(one.met for one in each)}/3 met"
    yield f"      Stable subspace:  {_tick(angle.met)} (angle={angle.value:.4f} vs <{angle.threshold:.3g})"
    yield f"      Safe gradients:   {_tick(minor.met)} (minor={minor.value:.4f} vs >{minor.threshold:.3g})"
    yield f"      Safe reconstruction: {_tick(error.met)} (error={error.value:.4f} vs <{error.threshold:.3g})"
    for trend in monitor.trends(name):
        upper = f"{trend.high:.0f}" if trend.high <= trend.horizon else f"over {trend.horizon:.0f}"
        when = f"~{trend.steps:.0f} steps ({trend.low:.0f} to {upper})" if trend.within else "not within the horizon"
        yield f"    Trend of {trend.metric}, {trend.analyses} analyses:"
        yield f"      {trend.slope:+.2g} ± {trend.error:.1g} a step; {trend.threshold:.3g} in {when}".replace(
            " in not", " not"
        )
    for switch in history.switches:
        rank = "" if switch.r is None or switch.mode != LOW_RANK else f" (r={switch.r})"
        yield f"  Step {switch.step}: SWITCHED TO {switch.mode}{rank}"


def _distance(value: float, limits: SwitchThresholds) -> str:
    danger = limits.principal_danger
    if value != value:
        return "unknown: no principal_alignment"
    close = is_close(value, danger, limits.margin(danger))
    state = "🔴 DANGER" if value > danger else "🟡 CLOSE" if close else "🟢 SAFE"
    return f"{danger - value:+.4f} {state}"


def _rank(metrics: SVDMetrics) -> str:
    return "unknown" if metrics.r is None else str(metrics.r)


def _tick(met: bool) -> str:
    return "✓" if met else "✗"
