"""The watcher: shows a source's records to detectors; file, state and actions agree over kills and resumes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from expkit.detectors.base import Detector, Event
from expkit.detectors.stalled import Stalled
from expkit.events import ask, entry_of
from expkit.record import Record
from expkit.troubles import WriteTrouble
from expkit.watch.acting import Acting
from expkit.watch.resumes import pass_over_resume
from expkit.watch.sources.base import Source
from expkit.watch.sources.journal import JournalSource
from expkit.watch.state import detector_states, load_detectors, read_state, write_state
from expkit.watch.unseen import HOW, Names, said_of, unseen
from expkit.watch.written import EventFile

__all__ = ["Watcher"]

log = logging.getLogger("expkit")

#: Seconds: what was recorded so long before the first watcher of a run began is written down, and nothing else done.
_HISTORY = 600.0
_SAVE_EVERY = 5.0
_LOOK_EVERY = 1000  # records


class Watcher:
    """Shows what a source yields to detectors; each event is written once to `watch_events.jsonl`, then acted upon.

    The file of events is the truth. A state, saved now and then, says where the source and the detectors stood; what
    comes after it is found again by the next watcher, and recognised in the file. An alert may so be sent twice, with
    the same id; it is never lost.

    Args:
        source: what is watched.
        make: makes the detectors, name -> detector, as they are at the start.
        settings: what tells whether a state is of such a watcher.
        folder: takes `watch_events.jsonl` and `watch_state.json`; made with the first of them.
        acting: alerts and takes snapshots.
        stop: ends reading when it is set.

    Attributes:
        written: the file of events.
        step: of the last record; None before the first.
        record: the last one.
        records, events: how many were read, and found new, since it was made.
        old: of these events, those that were only written down, for they were there long before the first watcher.
    """

    def __init__(
        self,
        source: Source,
        make: Callable[[], Mapping[str, Detector]],
        settings: Mapping[str, Any],
        folder: Path,
        acting: Acting,
        stop: threading.Event | None = None,
    ) -> None:
        self.source, self._make, self._settings, self._acting = source, make, settings, acting
        self._stop = stop or threading.Event()
        self.written = EventFile(folder / "watch_events.jsonl", source.replays, self._unact)
        self._state_file = folder / "watch_state.json"
        self._trouble = WriteTrouble(self._state_file, "the next watcher reads more again")
        self.step: int | None = None
        self._time = 0.0  # of the last record
        self._generation = 0
        self._fallback: Mapping[str, Any] | None = None
        self._detectors: Mapping[str, Detector] = {}
        self.record: Record | None = None
        self.records = self.events = self.old = 0
        self._names = Names()
        self._failed: set[str] = set()
        self._since = time.time()
        self._acted = 0  # bytes of the file of events that were acted upon
        self._to_settle = self._to_open = True
        self._saved, self._changed = time.monotonic(), False

    def _open(self) -> None:
        """Go on where the last watcher stood, or begin at the start."""
        state = read_state(self._state_file)
        try:
            self._since = float(state["since"]) if state is not None else self._since
            self._acted = int(state["acted"]) if state is not None else 0
            if state is not None and self._go_on(state):
                return
        except (KeyError, TypeError, ValueError, IndexError):  # a state of somebody else's making
            log.warning("%s cannot be used: everything is read again", self._state_file)
        self.source.rewind()
        self._begin_anew()
        # Where the journal was moved away, what comes now goes on from there.
        self._fallback = state if state is not None and state.get("settings") == self._settings else None

    def catch_up(self, last: bool = False) -> int:
        """Read what there is. Return how many records.

        Args:
            last: nothing more will come.

        Raises:
            UserError: what is there cannot be watched.
            OSError: it cannot be read now, and the next call goes on here; or the disk refuses, and that begins at the
                last state.
        """
        before = self.records
        if self._to_open:
            self._open()
        self._to_open = True  # unless it goes well
        for record in self._new(last):
            self._take(record)
            if self.records % _LOOK_EVERY == 0 and time.monotonic() - self._saved > _SAVE_EVERY:
                self.save()
            if self._stop.is_set():
                self._to_open = False
                return self.records - before
        if self.source.generation != self._generation:
            self._anew()
        if self._to_settle:
            self.written.settle()
        self._to_settle = self._to_open = False
        return self.records - before

    def _new(self, last: bool) -> Iterator[Record]:
        try:
            yield from self.source.read(last)
        except OSError:  # all that came before it has been taken
            self._to_open = False
            raise

    def look(self, now: float) -> None:
        """Ask those detectors that go by the clock, once all that there is has been read."""
        for detector in self._detectors.values():
            event = detector.overdue(now) if isinstance(detector, Stalled) else None
            if event is None or self.source.resumed(self._time, now):
                continue
            epoch = self.record.epoch if self.record is not None else 0
            if self._pass_on(event, epoch, acts=True) and "snapshot" in detector.respond:
                self._acting.observe(Record(event.step, epoch, now, {}), [event])

    def unseen(self, so_far: bool = True) -> str:
        """Return in one line which detectors had nothing to look at, and what there is; "" if there are none."""
        found = said_of(unseen(self._detectors), self._names.shown(), so_far) if self.records else ""
        return found + HOW if found and not isinstance(self.source, JournalSource) else found

    def save(self, force: bool = False) -> bool:
        """Save the state, unless nothing has changed, an alert is still on its way, or it was saved a moment ago.

        Returns:
            Whether nothing is left to save.
        """
        if not self._changed:
            return True
        if not force and time.monotonic() - self._saved < _SAVE_EVERY:
            return False
        place = self.source.place()
        if place is None or self._acting.busy or self._to_open:
            return False
        self._saved = time.monotonic()
        acted = max(self._acted, self.written.offset)  # in the middle of finding all again it is further than that
        state = {
            "settings": self._settings,
            "source": self.source.name,
            "place": place,
            "step": self.step,
            "time": self._time,
            "since": self._since,
            "events": self.written.offset,
            "acted": acted,
            "detectors": detector_states(self._detectors),
            "snapshots": self._acting.state_dict(),
        }
        try:
            self._state_file.parent.mkdir(exist_ok=True)
            write_state(self._state_file, state)
        except OSError as error:
            self._trouble.failed(error)
            return False
        self._trouble.worked()
        self._acted, self._changed = acted, False
        return True

    def _unact(self, offset: int) -> None:
        """Note that nothing behind `offset` was acted upon: what will be written there is new."""
        self._acted = min(self._acted, offset)
        state = read_state(self._state_file)
        if state is not None and int(state.get("acted", 0)) > offset:
            write_state(self._state_file, {**state, "acted": offset})

    def _go_on(self, state: Mapping[str, Any]) -> bool:
        if state["settings"] != self._settings or not self.source.go_on_from(state["place"]):
            return False
        if not self.written.go_on_from(int(state["events"])):
            return False
        self._restore(state)
        return True

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._detectors = self._make()
        load_detectors(self._detectors, state["detectors"])
        self._acting.begin_anew()
        self._acting.load_state_dict(state["snapshots"])
        self.step, self._time = state["step"], float(state["time"])
        for detector in self._detectors.values():
            if isinstance(detector, Stalled) and self.step is not None:
                detector.observe(Record(self.step, 0, self._time, {}))  # the time in between counts, whoever watched
        self._generation = self.source.generation
        self._fallback = None
        self._to_settle = True

    def _begin_anew(self) -> None:
        self._detectors = self._make()
        self._acting.begin_anew()
        self.written.rewind()
        for record in self.source.prelude():
            for name, detector in self._detectors.items():
                ask(name, detector, record, self._failed, "the others go on")
            self._acting.observe(record, ())
        self.step, self._generation = None, self.source.generation
        self._fallback = None
        self._to_settle = True

    def _anew(self) -> None:
        """Begin anew with a source that did."""
        if self.source.replays:
            log.info("the run has gone back: its records are read again from the start")
            self._begin_anew()
            return
        log.info("the run has gone back: the detectors begin anew")
        self._begin_anew()

    def _take(self, record: Record) -> None:
        if self._fallback is not None:
            state, self._fallback = self._fallback, None
            moved = isinstance(state.get("step"), int) and record.step > state["step"]
            if moved and self.written.go_on_from(int(state["events"])):
                self._restore(state)
        if self.source.generation != self._generation:
            if self.step is not None and record.step > self.step:
                self._generation = self.source.generation  # moved away, and gone on in a new file
            else:
                self._anew()
        acts = self._since - record.time < _HISTORY
        pass_over_resume(self.source, self._detectors, self._time if self.step is not None else None, record.time)
        found: list[Event] = []
        for name, detector in self._detectors.items():
            for event in ask(name, detector, record, self._failed, "the others go on"):
                if self._pass_on(event, record.epoch, acts) and "snapshot" in detector.respond:
                    found.append(event)
        self._acting.observe(record, found)
        self._names.add(record)
        self.step, self._time, self.record = record.step, record.time, record
        self.records += 1
        self._changed = True

    def _pass_on(self, event: Event, epoch: int, acts: bool) -> bool:
        """Write an event down, if it is not there yet. Return whether it is to be acted upon, and alert if so."""
        detector = self._detectors[event.detector]
        alerts = acts and "alert" in detector.respond
        new = self.written.add(entry_of(event, epoch, alerts))
        self.events += new
        self.old += new and not acts
        self._changed = True
        if not acts or not (new or self.written.offset > self._acted):
            return False
        self._acting.alert(event, detector)
        return True
