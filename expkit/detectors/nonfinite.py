"""NaN or infinity in the loss or the gradient norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from expkit.detectors._settings import whole
from expkit.detectors.base import RESPONSES, Detector, Event, Severity, checked_respond
from expkit.guards import LimitGuard
from expkit.record import Record

__all__ = ["NonFinite"]


class NonFinite(Detector):
    """Says at which step a value is NaN or infinite. Steps in a row are said once.

    A gradient norm alone is a WARNING, and CRITICAL as soon as the loss is too: a gradient scaler (fp16) has such steps
    from time to time, and leaves them out.

    Args:
        metrics: what is watched; None: the first of train_loss, loss that is there, and gradient_norm. Each step's
            value, where there is one.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events. `skip` leaves out updates whose loss or gradient norm is not finite.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = kind = "nonfinite"

    def __init__(
        self,
        *,
        metrics: Sequence[str] | None = None,
        warmup: int = 0,
        cooldown: int = 10,
        respond: Sequence[str] = ("snapshot", "alert"),
    ) -> None:
        self.metrics = (metrics,) if isinstance(metrics, str) else None if metrics is None else tuple(metrics)
        self.warmup = whole("detectors.nonfinite.warmup", warmup, 0)
        self.cooldown = whole("detectors.nonfinite.cooldown", cooldown, 0)
        self.respond = checked_respond(self.option, respond, [word for word in RESPONSES if word != "switch"])
        self._guard: LimitGuard | None = None
        self._said: int | None = None
        self._bad = 0  # at the last step: 1 the gradient norm alone, 2 something else
        self._saw = False  # whether any record had what is watched

    def guard(self) -> LimitGuard:
        if self._guard is None:
            self._guard = LimitGuard("both", finite_only=True)
        return self._guard

    def observe(self, record: Record) -> list[Event]:
        values = {name: found for name in self._names(record) if (found := _values(record, name))}
        if not values:
            return []
        self._saw = True
        if all(math.isfinite(sum(each)) for each in values.values()):  # the usual case, quickly
            self._bad = 0
            return []
        steps: dict[int, dict[str, float]] = {}
        for name, each in values.items():
            for step, value in enumerate(each, start=record.step - len(each) + 1):
                steps.setdefault(step, {})
                if not math.isfinite(value):
                    steps[step][name] = value
        events = [self._look(step, steps[step]) for step in sorted(steps)]
        return [event for event in events if event is not None]

    def unseen(self) -> tuple[str, ...]:
        return () if self._saw else self.metrics or ("train_loss", "loss", "gradient_norm")

    def state_dict(self) -> dict[str, Any]:
        return {"said": self._said, "bad": self._bad, "saw": self._saw}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._said, self._bad, self._saw = state["said"], state["bad"], state.get("saw", True)

    def _names(self, record: Record) -> Sequence[str]:
        if self.metrics is not None:
            return self.metrics
        loss = "train_loss" if "train_loss" in record.series or "train_loss" in record.metrics else "loss"
        return loss, "gradient_norm"

    def _look(self, step: int, found: Mapping[str, float]) -> Event | None:
        before, self._bad = self._bad, 0 if not found else 1 if set(found) == {"gradient_norm"} else 2
        quiet = before == 0 and self._said is not None and step - self._said < self.cooldown
        if self._bad <= before or quiet or step <= self.warmup:
            return None
        self._said = step
        severity = Severity.WARNING if self._bad == 1 else Severity.CRITICAL
        message = " and ".join(f"{name} is {value}" for name, value in found.items())
        return Event(self.name, self.kind, severity, step, message, dict(found))


def _values(record: Record, name: str) -> Sequence[float]:
    values = record.series.get(name, ())
    if values or name not in record.metrics:
        return values
    return (record.metrics[name],)
