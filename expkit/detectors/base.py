"""What a detector is: it sees records, never the model, so that the same object works inside a run and beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from expkit.errors import ConfigError
from expkit.record import Record, to_number, to_plain
from expkit.severity import Severity

if TYPE_CHECKING:
    from expkit.guards.base import Guard

__all__ = ["RESPONSES", "Detector", "Event", "Severity", "checked_events", "checked_respond"]

#: What can be done about an event; `Detector.respond` holds some of these words.
RESPONSES = ("snapshot", "alert", "skip", "rewind", "stop", "lower_lr", "switch")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a detector noticed. (detector, kind, step) identifies it.

    Attributes:
        detector: name of the detector's node in the configuration.
        kind: what happened, in a word that can be a file name (`loss_spike`).
        severity: INFO, WARNING or CRITICAL.
        step: the step at which it happened.
        message: one line for people.
        values: the numbers behind it.
        reason: what happened, and how much, in a word that can be a file name (`loss_spike_37.8pct`): the name of a
            snapshot's folder. The kind, if nothing is said.
        details: what a response has to know besides: plain JSON values.
    """

    detector: str
    kind: str
    severity: Severity
    step: int
    message: str
    values: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.reason:
            object.__setattr__(self, "reason", self.kind)


class Detector:
    """Base class of what watches records.

    If `observe` raises, or returns no list of events, that is said once and training goes on. It is asked again.
    """

    #: Set by whoever built the detector: the name of its node in the configuration.
    name: str = ""
    #: What is done about its events, of `RESPONSES`.
    respond: tuple[str, ...] = ("snapshot", "alert")
    #: Whether it watches the gradient norm, which is there at every step only if somebody asks for it.
    needs_gradient_norm: bool = False

    def observe(self, record: Record) -> list[Event]:
        """Take one record, in order of steps, and return what it shows: an empty list, mostly.

        `record.series` holds every step's value. A metric that is absent was not measured at this step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no observe(record), which returns a list of events")

    def unseen(self) -> tuple[str, ...]:
        """Return the metrics that it watches (the first of them that is there), if no record so far had any."""
        return ()

    def guard(self) -> Guard | None:
        """Return what skips updates on the device where `respond` has `skip`, always the same one.

        None if this detector cannot: what it watches is not known before the update.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """State that an exact resume needs, as plain types (dict, list, tuple, str, int, float, bool, None)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


def checked_events(found: object) -> list[Event]:
    """Return what a detector's `observe` returned, its values made plain numbers, its reason a file's name.

    Raises:
        TypeError: it is no list of events; the message says what it is.
        ValueError: an event's severity is none.
    """
    if not isinstance(found, list | tuple):
        raise TypeError(f"observe() returned {_kind(found)}, but it must return a list of events")
    for each in found:
        if not isinstance(each, Event):
            raise TypeError(f"observe() returned a list with {_kind(each)} in it, but it must be a list of events")
    return [
        replace(
            event,
            step=int(event.step),
            severity=Severity(event.severity),
            values={str(name): to_number(name, value) for name, value in event.values.items()},
            reason=re.sub(r"[^\w.-]+", "_", str(event.reason)),
            details=to_plain(event.details),
        )
        for event in found
    ]


def checked_respond(option: str, respond: Sequence[str], able: Sequence[str] = RESPONSES) -> tuple[str, ...]:
    """Return a detector's `respond`, each word once.

    Args:
        option: the detector's name in the configuration.
        respond: what was set.
        able: the words that this detector can do anything about.

    Raises:
        ConfigError: a word is none of these.
    """
    words = (respond,) if isinstance(respond, str) else tuple(dict.fromkeys(respond))
    for word in words:
        if word not in able:
            what = "this detector cannot" if word in RESPONSES else f"there is no {word}"
            raise ConfigError(
                f"detectors.{option}.respond=[{','.join(map(str, words))}]: {what}; choose from {', '.join(able)}"
            )
    return words


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
