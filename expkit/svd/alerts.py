"""What there is to say of a layer's last analysis: which rule holds or is close, where the numbers go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from expkit.severity import Severity
from expkit.svd.metrics import SVDMetrics
from expkit.svd.trend import Trend
from expkit.switch_thresholds import FULL, LOW_RANK, SwitchThresholds

__all__ = ["Alert", "Criterion", "criteria", "decimals", "judge"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to say.

    Attributes:
        level: how much it matters.
        kind: what it is, in one word; a kind that lasts is said once.
        parts: its text; lines are broken between parts only.
        urgency: said again when this rises.
    """

    level: Severity
    kind: str
    parts: tuple[str, ...]
    urgency: int = 0

    @property
    def text(self) -> str:
        """The whole text."""
        return " ".join(self.parts)


@dataclass(frozen=True, slots=True)
class Criterion:
    """One of the three that the "optimal" rule wants.

    Attributes:
        name: for people.
        metric, value, threshold: what is compared.
        above: whether the value must be above the threshold.
        margin: how close to it is close.
    """

    name: str
    metric: str
    value: float
    threshold: float
    above: bool
    margin: float

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self.value > self.threshold if self.above else self.value < self.threshold

    @property
    def close(self) -> bool:
        """Whether it does not hold, but nearly so."""
        return not self.met and is_close(self.value, self.threshold, self.margin)

    @property
    def progress(self) -> float:
        """How much of the way is done, from 0 to 1."""
        if self.met:
            return 1.0
        share = self.value / self.threshold if self.above else self.threshold / self.value if self.value else 1.0
        return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def is_close(value: float, threshold: float, margin: float) -> bool:
    """Whether `value` is less than `margin` away; a distance that is the margin but for rounding is not less."""
    return abs(threshold - value) < margin * (1 - 1e-9)


def criteria(metrics: SVDMetrics, thresholds: SwitchThresholds) -> tuple[Criterion, Criterion, Criterion]:
    """Return the criteria of the "optimal" rule."""
    angle, minor, error = thresholds.angle_stable, thresholds.minor_safe, thresholds.recon_safe
    return (
        Criterion("Stable subspace", "subspace_angle", metrics.subspace_angle, angle, False, thresholds.margin(angle)),
        Criterion("Safe gradients", "minor_alignment", metrics.minor_alignment, minor, True, thresholds.margin(minor)),
        Criterion(
            "Safe reconstruction",
            "reconstruction_error",
            metrics.reconstruction_error,
            error,
            False,
            thresholds.margin(error),
        ),
    )


def judge(
    metrics: SVDMetrics, mode: str, thresholds: SwitchThresholds, trends: Sequence[Trend], switched: bool
) -> list[Alert]:
    """Return what there is to say, the most important first.

    Args:
        metrics: the last analysis.
        mode: FULL or LOW-RANK.
        thresholds: of this layer.
        trends: towards thresholds that are not met.
        switched: whether the mode is another one than at the analysis before.
    """
    alerts = []
    if switched:
        rank = "" if metrics.r is None or mode == FULL else f" (r={metrics.r})"
        alerts.append(
            Alert(Severity.CRITICAL, f"switched {metrics.step}", (f"[{metrics.layer_name}] SWITCHED TO {mode}{rank}",))
        )
    decision = thresholds.decide(*(getattr(metrics, name) for name in _DECIDING))
    if decision is not None and decision[0] != mode:
        alerts.append(_imminent(metrics, thresholds, decision[1]))
    elif mode == FULL:
        alerts += _approaching(metrics, thresholds)
    if mode == FULL:
        alerts += [_trend(trend) for trend in trends]
    return alerts


_DECIDING = ("principal_alignment", "minor_alignment", "subspace_angle", "reconstruction_error")


def _imminent(metrics: SVDMetrics, thresholds: SwitchThresholds, rule: str) -> Alert:
    if rule == "optimal":
        parts = ("OPTIMAL CONDITIONS MET!", "All criteria satisfied", "→ SWITCH IMMINENT")
    elif rule == "clobbering":
        danger = thresholds.principal_danger
        parts = ("CLOBBERING:", _over("principal_alignment", metrics.principal_alignment, ">", danger), _NOW)
    else:
        error = _over("reconstruction_error", metrics.reconstruction_error, ">=", thresholds.recon_safe)
        parts = (f"[{LOW_RANK}]", error, f"→ SWITCH BACK TO {FULL} IMMINENT")
    return Alert(Severity.CRITICAL, rule, parts)


_NOW = "→ SWITCH IMMINENT"


def _approaching(metrics: SVDMetrics, thresholds: SwitchThresholds) -> Iterator[Alert]:
    value, danger = metrics.principal_alignment, thresholds.principal_danger
    if is_close(value, danger, thresholds.margin(danger)):
        yield Alert(
            Severity.WARNING,
            "near clobbering",
            ("Approaching clobbering:", _near("principal_alignment", value, danger)),
        )
    each = criteria(metrics, thresholds)
    count = sum(one.met for one in each)
    if count < 3 and all(one.met or one.close for one in each):
        counted = [f"{count}/3 criteria met:"] if count == 2 else []
        found = [f"✓ {one.name}" for one in each if one.met]
        found += [_near(one.metric, one.value, one.threshold) for one in each if not one.met]
        parts = ["Approaching optimal conditions:", *counted, *(f"{text}," for text in found[:-1]), found[-1]]
        yield Alert(Severity.WARNING, "near optimal", tuple(parts), count)


def _trend(trend: Trend) -> Alert:
    name = {
        "principal_alignment": "Gradients becoming dangerous",
        "minor_alignment": "Gradients becoming safer",
        "subspace_angle": "Subspace stabilizing",
        "reconstruction_error": "Compression becoming safer",
    }[trend.metric]
    if trend.within:
        upper = f"{trend.high:.0f}" if trend.high <= trend.horizon else f"over {trend.horizon:.0f}"
        when = (f"→ ~{trend.steps:.0f} steps to threshold", f"({trend.low:.0f} to {upper})")
        urgency = 64 - round(trend.steps).bit_length()  # one more each time that the distance halves
    else:
        when, urgency = ("→ threshold not within the horizon", f"({trend.horizon:.0f} steps)"), 0
    return Alert(Severity.INFO, f"trend {trend.metric}", (f"{name}: {trend.value:.3f}", *when), urgency)


def decimals(threshold: float) -> int:
    """Return how many decimals tell a value from `threshold`: two, or more for a small one."""
    return 2 if threshold >= 0.1 or threshold <= 0 else 1 - math.floor(math.log10(threshold))


def _near(metric: str, value: float, threshold: float) -> str:
    places = decimals(threshold)
    return f"{metric}={value:.{places}f} (within {abs(threshold - value):.{places}f} of {threshold:.3g})"


def _over(metric: str, value: float, sign: str, threshold: float) -> str:
    return f"{metric}={value:.{decimals(threshold) + 1}f} {sign} {threshold:.3g}"
