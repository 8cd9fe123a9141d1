"""What is known of each layer's analyses, bounded in memory however long a run is."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from expkit.errors import UserError
from expkit.svd.alerts import Alert, criteria, judge
from expkit.svd.metrics import SVDMetrics
from expkit.svd.trend import MOST, Trend, find_trend
from expkit.switch_thresholds import FULL, LOW_RANK, SwitchThresholds

__all__ = ["LayerHistory", "Layers", "Switch"]

#: Switches of a layer that are remembered.
_SWITCHES = 100


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of a layer's mode: the step of the analysis that first shows it, the new mode, and its r."""

    step: int
    mode: str
    r: int | None


@dataclass(slots=True)
class LayerHistory:
    """What is kept of a layer.

    Attributes:
        latest: the last analysis.
        mode: FULL or LOW-RANK.
        chance: p^2 that a gradient without preference has; None unknown.
        recent: the analyses since mode or r changed last, at most 20.
        switches: seen, the oldest first.
        least_error: the smallest reconstruction error of all analyses.
        said: kind -> urgency of what was said and still stands.
    """

    latest: SVDMetrics
    mode: str = FULL
    chance: float | None = None
    recent: deque[SVDMetrics] = field(default_factory=lambda: deque(maxlen=MOST))
    switches: deque[Switch] = field(default_factory=lambda: deque(maxlen=_SWITCHES))
    least_error: float = math.inf
    said: dict[str, int] = field(default_factory=dict)


class Layers:
    """Follows the analyses of layers, and knows how far each is from a switch between FULL and LOW-RANK.

    Args:
        thresholds: of the rules, and how close to them is close.
        calibrated: thresholds on the alignments relative to chance, in layers whose `alignment_excess` is known.

    Attributes:
        layers: layer name -> what is known of it, in the order in which layers came.
    """

    def __init__(self, thresholds: SwitchThresholds | None = None, calibrated: bool = False) -> None:
        if thresholds is not None and not isinstance(thresholds, SwitchThresholds):
            raise UserError(f"thresholds={thresholds!r}: give SwitchThresholds(...), or nothing")
        self.thresholds = thresholds or SwitchThresholds()
        self.calibrated = calibrated
        self._layers: dict[str, LayerHistory] = {}

    @property
    def layers(self) -> Mapping[str, LayerHistory]:
        """What is known of each layer."""
        return self._layers

    def add_metrics(self, metrics: SVDMetrics) -> None:
        """Take an analysis. One of the last step completes that; one of an earlier step takes back what came after."""
        history = self._layers.get(metrics.layer_name)
        if history is None:
            history = self._layers[metrics.layer_name] = LayerHistory(metrics)
            history.mode = LOW_RANK if metrics.mode == 1.0 else FULL
        elif metrics.step == history.latest.step:
            metrics = metrics.filled(history.latest)
        if metrics.step <= history.latest.step:
            _take_back(history, metrics.step)
        before = history.mode
        if metrics.mode in (0.0, 1.0):
            history.mode = LOW_RANK if metrics.mode else FULL
        if history.mode != before:
            history.switches.append(Switch(metrics.step, history.mode, metrics.r))
        if history.mode != before or _changed(history.latest.r, metrics.r):
            history.recent.clear()  # with another k all numbers mean something else
            history.chance = None
        history.recent.append(metrics)
        history.latest = metrics
        history.chance = _chance(metrics, history.chance)
        history.least_error = min(history.least_error, _or_inf(metrics.reconstruction_error))

    def alerts(self, layer_name: str) -> list[Alert]:
        """Return what there is to say of a layer's last analysis, the most important first."""
        history = self._layers[layer_name]
        switched = bool(history.switches) and history.switches[-1].step == history.latest.step
        limits = self.thresholds_of(layer_name)
        return judge(history.latest, history.mode, limits, self.trends(layer_name), switched)

    def fresh_alerts(self, layer_name: str) -> list[Alert]:
        """Return those of `alerts` that were not returned yet, or have become more urgent since."""
        said, now = self._layers[layer_name].said, self.alerts(layer_name)
        fresh = [alert for alert in now if alert.kind not in said or alert.urgency > said[alert.kind]]
        self._layers[layer_name].said = {
            alert.kind: max(alert.urgency, said.get(alert.kind, alert.urgency)) for alert in now
        }
        return fresh

    def thresholds_of(self, layer_name: str) -> SwitchThresholds:
        """Return the thresholds that hold for a layer."""
        chance = self._layers[layer_name].chance
        return self.thresholds.calibrated(chance) if self.calibrated and chance is not None else self.thresholds

    def trends(self, layer_name: str) -> list[Trend]:
        """Return where the layer's numbers go steadily, towards a threshold that is not met."""
        history, limits = self._layers[layer_name], self.thresholds_of(layer_name)
        goals = {one.metric: one.threshold for one in criteria(history.latest, limits) if not one.met}
        if not history.latest.principal_alignment > limits.principal_danger:
            goals = {**goals, "principal_alignment": limits.principal_danger}
        rising = {"principal_alignment", "minor_alignment"}
        found = []
        for metric, threshold in goals.items():
            trend = find_trend(metric, [(each.step, getattr(each, metric)) for each in history.recent], threshold)
            if trend is not None and (trend.slope > 0) == (metric in rising):
                found.append(trend)
        return found


def _take_back(history: LayerHistory, step: int) -> None:
    """Forget what is from `step` on."""
    while history.recent and history.recent[-1].step >= step:
        history.recent.pop()
    while history.switches and history.switches[-1].step >= step:
        last = history.switches.pop()
        history.mode = FULL if last.mode == LOW_RANK else LOW_RANK
    if history.recent:
        history.latest = history.recent[-1]


def _changed(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and before != now


def _chance(metrics: SVDMetrics, known: float | None) -> float | None:
    squared, excess = metrics.principal_alignment * metrics.principal_alignment, metrics.alignment_excess
    return min(squared / excess, 1.0) if 0 < excess < math.inf and squared <= excess * 1.001 else known


def _or_inf(value: float) -> float:
    return math.inf if math.isnan(value) else value
