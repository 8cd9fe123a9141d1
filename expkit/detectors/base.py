"""What a detector is: it sees records, never the model, so that the same object works inside a run and beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from expkit.record import Record

__all__ = ["Detector", "Event", "Severity"]


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
    """Base class of what watches records."""

    #: Set by whoever built the detector: the name of its node in the configuration.
    name: str = ""

    def observe(self, record: Record) -> list[Event]:
        """Take one record, in order of steps, and return what it shows. `record.series` holds every step's value."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """State that an exact resume needs, as plain types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
