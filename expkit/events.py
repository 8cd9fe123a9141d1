"""What detectors notice, on its way to people: events.jsonl, the terminal, the trackers' alerts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from expkit.detectors.base import Detector, Event, Severity, checked_events
from expkit.errors import describe
from expkit.journal import Journal
from expkit.record import Record
from expkit.trackers import Alert

__all__ = ["EventLog"]

log = logging.getLogger("expkit")

_LEVELS = {
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.CRITICAL: logging.CRITICAL,
}


class EventLog:
    """Shows each record to the detectors and passes on what they say.

    Args:
        path: events.jsonl; made with the first event.
        detectors: name -> detector.
        alert: takes each event for the trackers.
    """

    def __init__(self, path: Path, detectors: Mapping[str, Detector], alert: Callable[[Alert], None]) -> None:
        self._path = path
        self._detectors = detectors
        self._alert = alert
        self._journal: Journal | None = None
        self._failed: set[str] = set()

    def observe(self, record: Record) -> list[Event]:
        """Show `record` to every detector, write down and pass on the events, and return them."""
        events = [event for name, detector in self._detectors.items() for event in self._ask(name, detector, record)]
        for event in events:
            self._write(event, record.epoch)
            log.log(_LEVELS[event.severity], "step %d: %s", event.step, event.message)
            self._alert(Alert(event.kind, event.message, event.severity.value, event.step))
        return events

    def _ask(self, name: str, detector: Detector, record: Record) -> list[Event]:
        try:
            return checked_events(detector.observe(record))
        except Exception as error:  # noqa: BLE001 - it only watches: whatever it raises is not worth a run
            if name not in self._failed:
                log.warning("detectors.%s failed (%s): training goes on", name, describe(error))
            self._failed.add(name)
            return []

    def close(self) -> None:
        """Close the file."""
        if self._journal is not None:
            self._journal.close()

    def trouble(self) -> dict[str, Any]:
        """Return what went wrong with the file so far; {} if nothing did."""
        return self._journal.trouble() if self._journal is not None else {}

    def _write(self, event: Event, epoch: int) -> None:
        if self._journal is None:
            self._journal = Journal(self._path, must_open=False)
        entry = {
            "step": event.step,
            "epoch": epoch,
            "time": time.time(),
            "detector": event.detector,
            "kind": event.kind,
            "severity": event.severity.value,
            "message": event.message,
            "values": dict(event.values),
        }
        self._journal.write_line(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
