"""Detectors watch records and raise events."""

from expkit.detectors.base import Detector, Event, Severity

__all__ = ["Detector", "Event", "Severity"]
