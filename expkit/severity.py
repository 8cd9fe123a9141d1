"""How much something matters: of events, and of what the SVD monitor says."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Severity"]


class Severity(StrEnum):
    """How much an event matters."""

    INFO = "INFO"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"
