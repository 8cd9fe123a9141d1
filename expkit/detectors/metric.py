"""What detectors that watch one metric have in common: which one, from when on, and how often they speak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from expkit.detectors._settings import whole
from expkit.detectors.base import RESPONSES, Detector, Event, Severity, checked_respond
from expkit.record import Record

__all__ = ["MetricDetector", "guarded"]

#: What a guard sees of the metrics: the others are not known before the update.
_SEEN_BY_GUARDS: Mapping[str, Literal["loss", "gradient_norm"]] = {
    "train_loss": "loss",
    "loss": "loss",
    "gradient_norm": "gradient_norm",
}


def guarded(metric: str) -> Literal["loss", "gradient_norm"] | None:
    """Return what a guard has to look at to see `metric`, or None if it cannot."""
    return _SEEN_BY_GUARDS.get(metric)


class MetricDetector(Detector):
    """Base class of what watches one metric.

    Numbers that are not finite are passed over, always: they are `nonfinite`'s business, and would blind a window.

    Args:
        metric: its name; None: the first of `names` that is there. A better one that comes later takes over.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    #: The name of its option, for messages.
    option: ClassVar[str]
    #: What its events are called.
    kind: ClassVar[str]
    #: The metrics that are looked for where none is named, the best first.
    names: ClassVar[tuple[str, ...]] = ("train_loss", "loss")
    #: Whether it looks at each step's value, where records have them, or at the records' own values.
    every_step: ClassVar[bool] = False
    #: Whether it has a guard for what it watches.
    can_skip: ClassVar[bool] = False

    def __init__(self, metric: str | None, warmup: int, cooldown: int, respond: Sequence[str]) -> None:
        self.metric = metric
        self.warmup = whole(f"detectors.{self.option}.warmup", warmup, 0)
        self.cooldown = whole(f"detectors.{self.option}.cooldown", cooldown, 0)
        self._candidates = self.names if metric is None else (metric,)
        self.needs_gradient_norm = "gradient_norm" in self._candidates
        skips = self.can_skip and guarded(self._candidates[0]) is not None
        able = [word for word in RESPONSES if word != "switch" and (skips or word != "skip")]
        self.respond = checked_respond(self.option, respond, able)
        self._watched: str | None = None
        self._said: int | None = None  # the step of the last event

    def observe(self, record: Record) -> list[Event]:
        name = self._find(record)
        if name is None:
            return []
        values: Sequence[float] = record.series.get(name, ()) if self.every_step else ()
        if not values:
            if name not in record.metrics:
                return []
            values = (record.metrics[name],)
        events = []
        for step, value in enumerate(values, start=record.step - len(values) + 1):
            if math.isfinite(value):
                event = self._take(step, value)
                if event is not None:
                    events.append(event)
        return events

    def unseen(self) -> tuple[str, ...]:
        return self._candidates if self._watched is None else ()

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self._watched, "said": self._said, **self._memory()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["metric"] is None or state["metric"] in self._candidates:  # else it was told to watch another one
            self._watched, self._said = state["metric"], state["said"]
            self._recall(state)

    def _take(self, step: int, value: float) -> Event | None:
        """Take the next value, finite, and return what it shows."""
        raise NotImplementedError

    def _memory(self) -> dict[str, Any]:
        """Return what it knows of the values so far."""
        return {}

    def _recall(self, state: Mapping[str, Any]) -> None:
        """Take back what `_memory` returned; of {} begin anew."""

    def _silent(self, step: int) -> bool:
        """Whether nothing is to be said at `step`."""
        return step <= self.warmup or (self._said is not None and step - self._said < self.cooldown)

    def _event(
        self, severity: Severity, step: int, message: str, values: Mapping[str, float], reason: str = ""
    ) -> Event:
        self._said = step
        return Event(self.name, self.kind, severity, step, message, values, reason)

    def _find(self, record: Record) -> str | None:
        for name in self._candidates:
            if name in record.series or name in record.metrics:
                if name != self._watched:
                    if self._watched is not None:
                        self._recall({})  # what is known is of another metric
                    self._watched = name
                return name
            if name == self._watched:
                return None  # not measured this time
        return None
