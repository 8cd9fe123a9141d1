"""What a detector is: it sees records, never the model, so that the same object works inside a run and beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from expkit.record import Record, to_number

__all__ = ["Detector", "Event", "Severity", "checked_events"]


class Severity(StrEnum):
    """How much an event matters."""

    INFO = "INFO"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"


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
    """

    detector: str
    kind: str
    severity: Severity
    step: int
    message: str
    values: Mapping[str, float] = field(default_factory=dict)


class Detector:
    """Base class of what watches records.

    If `observe` raises, or returns no list of events, that is said once and training goes on. It is asked again.
    """

    #: Set by whoever built the detector: the name of its node in the configuration.
    name: str = ""

    def observe(self, record: Record) -> list[Event]:
        """Take one record, in order of steps, and return what it shows: an empty list, mostly.

        `record.series` holds every step's value. A metric that is absent was not measured at this step.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """State that an exact resume needs, as plain types (dict, list, tuple, str, int, float, bool, None)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


def checked_events(found: object) -> list[Event]:
    """Return what a detector's `observe` returned, its values made plain numbers.

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
        )
        for event in found
    ]


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
