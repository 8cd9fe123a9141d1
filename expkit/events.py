"""What detectors notice, on its way to people: events.jsonl, the terminal, the trackers' alerts."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

from expkit.detectors.base import Detector, Event, Severity, checked_events
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.opening import lines_of, open_file
from expkit.place import describe_at
from expkit.record import Record
from expkit.trackers import Alert

__all__ = ["BY_THE_CLOCK", "LEVELS", "EventLog", "alert_of", "ask", "decode_event", "entry_of", "posted", "read_events"]

log = logging.getLogger("expkit")

#: How loud each severity is logged.
LEVELS = {
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.CRITICAL: logging.CRITICAL,
}

#: A detector that takes more than this share of the time is said, once it has taken so many seconds.
_SHARE, _GRACE = 0.05, 2.0

#: Kinds that depend on the clock and not on records alone: a second look at the same records tells them otherwise.
BY_THE_CLOCK = ("stalled",)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the entries of an events.jsonl, as far as they are whole: torn lines are passed over."""
    entries = []
    with contextlib.suppress(FileNotFoundError), open_file(path) as file:
        for line in lines_of(file):
            with contextlib.suppress(ValueError):
                entries.append(decode_event(line))
    return entries


def decode_event(line: bytes) -> dict[str, Any]:
    """Return the entry of a line of an events.jsonl.

    Raises:
        ValueError: it is no such line (torn, say).
    """
    try:
        entry: dict[str, Any] = orjson.loads(line)
        known = {"step": int(entry["step"]), "severity": Severity(entry["severity"])}
        known |= {key: str(entry[key]) for key in ("kind", "message")}
        entry |= known
        orjson.dumps(entry)  # TypeError: what cannot be written again: lists in lists without end, a step of 1e300
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"not a line of an events.jsonl: {error}") from None
    return entry


def ask(name: str, detector: Detector, record: Record, failed: set[str], meanwhile: str) -> list[Event]:
    """Show `record` to a detector and return its events. If it fails that is said once, as `failed` remembers."""
    try:
        found = detector.observe(record)
        return checked_events(found) if found != [] else []  # the usual case, quickly
    except Exception as error:  # noqa: BLE001 - it only watches: whatever it raises is not worth a run
        if name not in failed:
            log.warning("detectors.%s failed (%s): %s", name, describe_at(error), meanwhile)
        failed.add(name)
        return []


def entry_of(event: Event, epoch: int, alert: bool) -> dict[str, Any]:
    """Return the line of an events.jsonl: what happened in which epoch, and whether somebody was alerted."""
    return {
        "step": event.step,
        "epoch": epoch,
        "time": time.time(),
        "detector": event.detector,
        "kind": event.kind,
        "reason": event.reason,
        "severity": event.severity.value,
        "message": event.message,
        "values": dict(event.values),
        "alert": alert,
        **({"details": dict(event.details)} if event.details else {}),
    }


def alert_of(event: Event) -> Alert:
    """Return the alert that says of an event what trackers and webhooks are to know."""
    return Alert(event.kind, event.message, event.severity.value, event.step, event.detector)


def posted(alert: Alert, run: RunDir) -> dict[str, Any]:
    """Return what a webhook gets, from the run itself and from who watches it.

    `id`, `RUN/DETECTOR/KIND/STEP/TEXT`, is the same whenever the same event is sent again: a receiver drops repeats by
    it. TEXT is a checksum of the text, by which another event of the same step differs, one after a resume say.
    """
    text = "" if alert.title in BY_THE_CLOCK else f"/{crc32(alert.text.encode()):08x}"
    return {
        "id": f"{run.id}/{alert.detector}/{alert.title}/{alert.step}{text}",
        "run": run.id,
        "dir": str(run.root.absolute()),
        **asdict(alert),
    }


class EventLog:
    """Shows each record to the detectors and passes on what they say.

    Args:
        path: events.jsonl; made with the first event.
        detectors: name -> detector.
        alert: takes each event for the trackers, of those detectors that are to alert.
        respond: takes the events of a record, for what else is to be done about them.
        epoch: from 1, until the first record says which.
    """

    def __init__(
        self,
        path: Path,
        detectors: Mapping[str, Detector],
        alert: Callable[[Alert], None],
        respond: Callable[[Sequence[Event]], object] = lambda _: None,
        epoch: int = 0,
    ) -> None:
        self._path = path
        self._detectors = detectors
        self._alert, self._respond = alert, respond
        self._epoch = epoch
        self._journal: Journal | None = None
        self._opening = threading.Lock()
        self._failed: set[str] = set()
        self._spent = dict.fromkeys(detectors, 0.0)
        self._began = time.perf_counter()
        self._slow: set[str] = set()

    def observe(self, record: Record) -> list[Event]:
        """Show `record` to every detector, write down and pass on the events, and return them."""
        events = []
        before = time.perf_counter()
        for name, detector in self._detectors.items():
            events += ask(name, detector, record, self._failed, "training goes on")
            now = time.perf_counter()
            self._spent[name] += now - before
            if self._spent[name] > _GRACE and name not in self._slow:
                self._say_if_slow(name, now)
            before = now
        self._epoch = record.epoch
        for event in events:
            self._pass_on(event, "alert" in self._detectors[event.detector].respond)
        if events:
            self._respond(events)
        return events

    def _say_if_slow(self, name: str, now: float) -> None:
        share = self._spent[name] / (now - self._began)
        if share > _SHARE:
            self._slow.add(name)
            log.warning(
                "detectors.%s has taken %.0f %% of the time so far: training waits for it at every record; "
                "a longer trainer.log_interval makes fewer",
                name,
                100 * share,
            )

    def note(self, detector: str, step: int, severity: Severity, message: str) -> None:
        """Write down, and say, what was done about an event of `detector`. It is no alert: the event was one.

        Any thread may call it.
        """
        self._pass_on(Event(detector, "response", severity, step, message), alert=False)

    def troubles(self) -> list[int]:
        """Return the steps of all events of the run that are warnings or worse."""
        worse = (Severity.WARNING, Severity.CRITICAL)
        return [
            each["step"] for each in read_events(self._path) if each["severity"] in worse and each["kind"] != "response"
        ]

    def _pass_on(self, event: Event, alert: bool) -> None:
        self._write(event, alert)
        log.log(LEVELS[event.severity], "step %d: %s", event.step, event.message)
        if alert:
            self._alert(alert_of(event))

    def close(self) -> None:
        """Close the file."""
        if self._journal is not None:
            self._journal.close()

    def trouble(self) -> dict[str, Any]:
        """Return what went wrong with the file so far; {} if nothing did."""
        return self._journal.trouble() if self._journal is not None else {}

    def _write(self, event: Event, alert: bool) -> None:
        with self._opening:
            if self._journal is None:
                self._journal = Journal(self._path, must_open=False)
        entry = entry_of(event, self._epoch, alert)
        self._journal.write_line(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
