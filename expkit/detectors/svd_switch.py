"""When a layer's weight should train as a whole, and when the minor part of it: the published rules, made steady."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from expkit.detectors._settings import number, whole
from expkit.detectors.base import RESPONSES, Detector, Event, Severity, checked_respond
from expkit.record import Record
from expkit.switch_thresholds import FULL, LOW_RANK, SwitchThresholds

__all__ = ["SVDSwitch"]

#: Layers that a message names; the event's details have all.
_NAMED = 3
_MEASURED = ("principal_alignment", "minor_alignment", "subspace_angle", "reconstruction_error")


@dataclass(slots=True)
class _Layer:
    """What is kept of a layer.

    Attributes:
        mode: it has, or would have had the events been followed.
        seen: the mode that it had at its last analysis.
        said: the step of its last event.
        count: analyses in a row that want the other mode.
    """

    mode: str
    seen: str
    said: int | None = None
    count: int = 0


class SVDSwitch(Detector):
    """Says when a layer should switch between FULL and LOW-RANK, by what the `svd` diagnostic measures.

    The rules, the first that holds (docs/adaptive-svd.md says what is wrong with them): principal alignment above
    `principal_danger`: LOW-RANK, "clobbering"; angle below `angle_stable`, minor alignment above `minor_safe` and error
    below `recon_safe`: LOW-RANK, "optimal"; error of `recon_safe` or more: FULL, "recon". It reports only, and goes on
    as if it had been followed, unless `respond` has `switch`.

    An event is of all layers that want a switch at a record. Its details hold, under `switches`, for each of them
    `layer`, `from`, `to`, `r` and `rule`; its values the numbers, as `{layer}/{metric}`.

    Args:
        prefix: of the metrics: the diagnostic's name.
        principal_danger, minor_safe, angle_stable, recon_safe: thresholds.
        hysteresis: by this share of itself each threshold is eased for a layer in LOW-RANK, so that it does not go back
            and forth with the noise.
        min_excess: least `alignment_excess` for "clobbering"; 0: the published rule, which fires by chance.
        max_trainable_ratio: no LOW-RANK where it would train more than so many times FULL's parameters; None: anyway.
        records: analyses of a layer in a row that must want the same.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two switches of a layer.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    def __init__(
        self,
        *,
        prefix: str = "svd",
        principal_danger: float = 0.4,
        minor_safe: float = 0.6,
        angle_stable: float = 0.1,
        recon_safe: float = 0.01,
        hysteresis: float = 0.1,
        min_excess: float = 0.0,
        max_trainable_ratio: float | None = None,
        records: int = 1,
        warmup: int = 0,
        cooldown: int = 200,
        respond: Sequence[str] = ("alert",),
    ) -> None:
        key = "detectors.svd_switch"
        self.thresholds = SwitchThresholds(
            principal_danger=number(f"{key}.principal_danger", principal_danger, above=0),
            minor_safe=number(f"{key}.minor_safe", minor_safe, above=0),
            angle_stable=number(f"{key}.angle_stable", angle_stable, above=0),
            recon_safe=number(f"{key}.recon_safe", recon_safe, above=0),
        )
        self._eased = self.thresholds.eased(number(f"{key}.hysteresis", hysteresis, at_least=0))
        self._min_excess = number(f"{key}.min_excess", min_excess, at_least=0)
        self._max_ratio = math.inf
        if max_trainable_ratio is not None:
            self._max_ratio = number(f"{key}.max_trainable_ratio", max_trainable_ratio, above=0)
        self._records = whole(f"{key}.records", records, 1)
        self._warmup = whole(f"{key}.warmup", warmup, 0)
        self._cooldown = whole(f"{key}.cooldown", cooldown, 0)
        self.respond = checked_respond("svd_switch", respond, [word for word in RESPONSES if word != "skip"])
        self._prefix = f"{prefix}/"
        self._layers: dict[str, _Layer] = {}

    def observe(self, record: Record) -> list[Event]:
        analysed: dict[str, dict[str, float]] = {}
        for name, value in record.metrics.items():
            if name.startswith(self._prefix) and math.isfinite(value):
                layer, slash, metric = name.removeprefix(self._prefix).rpartition("/")
                if slash:
                    analysed.setdefault(layer, {})[metric] = value
        switches, reasons = [], []
        values: dict[str, float] = {}
        for name, found in analysed.items():
            decision = self._take(name, found, record.step)
            if decision is not None:
                before, to, rule = decision
                r = int(found["r"]) if to == LOW_RANK and "r" in found else None
                switches.append({"layer": name, "from": before, "to": to, "r": r, "rule": rule})
                reasons.append(self._reason(name, before, to, rule, r, found))
                values |= {f"{name}/{metric}": found[metric] for metric in (*_MEASURED, "r") if metric in found}
        if not switches:
            return []
        clobbered = any(switch["rule"] == "clobbering" for switch in switches)
        more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        message = "; ".join(reasons[:_NAMED]) + more
        severity = Severity.WARNING if clobbered else Severity.INFO
        return [Event(self.name, "svd_switch", severity, record.step, message, values, details={"switches": switches})]

    def unseen(self) -> tuple[str, ...]:
        return () if self._layers else (f"{self._prefix}...",)

    def state_dict(self) -> dict[str, Any]:
        return {"layers": {name: asdict(layer) for name, layer in self._layers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._layers = {name: _Layer(**fields) for name, fields in state["layers"].items()}

    def _take(self, name: str, found: Mapping[str, float], step: int) -> tuple[str, str, str] | None:
        """Take a layer's analysis; return (mode, wanted mode, rule) if it is to switch now."""
        if "reconstruction_error" not in found or found.get("mode", 0.0) not in (0.0, 1.0):
            return None
        seen = LOW_RANK if found.get("mode") else FULL
        layer = self._layers.setdefault(name, _Layer(seen, seen))
        if layer.seen != seen or "switch" in self.respond:  # it has been switched, or should have been
            layer.count = layer.count if layer.mode == seen else 0
            layer.mode = seen
        layer.seen = seen
        decision = self._decide(layer.mode, found)
        if decision is None or decision[0] == layer.mode:
            layer.count = 0
            return None
        layer.count += 1
        silent = step <= self._warmup or (layer.said is not None and step - layer.said < self._cooldown)
        if layer.count < self._records or silent:
            return None
        before, layer.mode, layer.said, layer.count = layer.mode, decision[0], step, 0
        return before, *decision

    def _decide(self, mode: str, found: Mapping[str, float]) -> tuple[str, str] | None:
        principal, minor, angle, error = (found.get(metric, math.nan) for metric in _MEASURED)
        if found.get("alignment_excess", math.inf) < self._min_excess:
            principal = math.nan
        decision = (self._eased if mode == LOW_RANK else self.thresholds).decide(principal, minor, angle, error)
        more = found.get("trainable_ratio", 0.0) > self._max_ratio
        return None if more and mode == FULL and decision is not None and decision[0] == LOW_RANK else decision

    def _reason(self, name: str, before: str, to: str, rule: str, r: int | None, found: Mapping[str, float]) -> str:
        limits = self._eased if before == LOW_RANK else self.thresholds
        why = {
            "clobbering": "principal_alignment {principal_alignment:.3g} > {0.principal_danger:.3g}",
            "optimal": "subspace_angle {subspace_angle:.3g} < {0.angle_stable:.3g}, minor_alignment "
            "{minor_alignment:.3g} > {0.minor_safe:.3g}, reconstruction_error {reconstruction_error:.3g} < "
            "{0.recon_safe:.3g}",
            "recon": "reconstruction_error {reconstruction_error:.3g} >= {0.recon_safe:.3g}",
        }[rule].format(limits, **found)
        ratio = found.get("trainable_ratio", 0.0)
        parameters = f"; that is {ratio:.2f} times the parameters" if to == LOW_RANK and ratio > 1 else ""
        rank = "" if r is None else f" r={r}"
        return f"{name} {before} -> {to}{rank} ({rule}: {why}{parameters})"
