"""Sending a run to a tracker after the fact: its journal, pictures and events, each once however often it is done."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

from expkit.errors import UserError, describe
from expkit.events import read_events
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.journal import read_journal, to_record
from expkit.journal.reader import parts_of
from expkit.record import Record
from expkit.status import read_status
from expkit.trackers.base import Alert, RunInfo, Tracker
from expkit.trackers.ledger import Ledger
from expkit.trackers.sender import Item, Sender
from expkit.trackers.tally import Tally

__all__ = ["Replay", "run_info"]

log = logging.getLogger("expkit")

_DAY = 86_400.0
_PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins
_LEVELS = ("INFO", "WARNING", "CRITICAL")
_PICTURE = re.compile(r"(?P<name>.+)_step_(?P<step>\d+)\.png")


def run_info(run: RunDir, **changes: Any) -> RunInfo:
    """Return how `run` is called in trackers, as its config.json says, with `changes` to it.

    Raises:
        UserError: it is no run directory.
    """
    stored = read_json(run.config)
    config: Any = stored.get("config")
    if not isinstance(config, dict):
        config = {}
    said: Any = config.get("run")
    if not isinstance(said, dict):
        said = {}
    branch = found if isinstance(found := stored.get("branch"), int) else 0
    texts = {key: str(said[key]) for key in ("project", "name", "group", "notes") if said.get(key)}
    values: dict[str, Any] = {
        "project": "expkit",
        "name": run.id,
        "group": run.id if branch else None,
        "tags": tuple(map(str, tags)) if isinstance(tags := said.get("tags"), list) else (),
        **texts,
        **changes,
    }
    return RunInfo(f"{run.id}-r{branch}" if branch else run.id, run.root.absolute(), config=config, **values)


class Replay:
    """Sends what a tracker lacks of a run, and closes the run in it. Nothing must write to the run meanwhile.

    What the tool holds it says itself, where it can; otherwise `logs/delivery.json` knows.

    Args:
        run: the run directory.
        name: what the tracker is called in `logs/delivery.json`.
        tracker: not yet started.
        info: how the run is to show up in the tool; None means as config.json says.

    Attributes:
        held: records that the tracker holds already, and keeps.
        records, images, alerts: how many it lacks, or is to get anew.
        complete: whether it lacks nothing, and the run is closed in it.

    Raises:
        UserError: `run` is no run directory, or has no journal; or what the tool holds cannot be read.
    """

    def __init__(self, run: RunDir, name: str, tracker: Tracker, info: RunInfo | None = None) -> None:
        if not (run.metrics.exists() or parts_of(run.metrics)):
            raise UserError(f"{run.metrics} is not there, so there is nothing to send")
        self._run, self._name, self._tracker = run, name, tracker
        self.info = info or run_info(run)
        self._ledger = Ledger(self.info.dir, self.info.id)
        self._look(self._ask(tracker.holds))
        kept = None if self.complete else self._ask(tracker.keeps)
        if kept is not None:
            self._ledger.forget(name, max(kept, default=-1))
            self._look(kept)

    def send(self, progress: Callable[[], object] = lambda: None) -> None:
        """Send it.

        Args:
            progress: called for every record of the run, sent or not.

        Raises:
            UserError: the tracker failed. What it took is noted, and the next replay sends the rest.
        """
        self._tracker.set_aside(self.info)
        now = threading.Event()
        now.set()  # there is no training that could go on while the tracker is down
        tally = Tally(self._name, training=False)
        self._tracker.patience = _DAY
        sender = Sender(self._name, self._tracker, self.info, self._ledger, now, tally, self._lacking)
        try:
            if self._feed(sender, progress):
                state = read_status(self._run.status).get("state", "finished")
                sender.finish(self._summary, failed=state in ("failed", "starting", "running"))
        finally:
            self._ledger.save(force=True)
        trouble = tally.summary()
        if trouble and not self._ledger.is_finished(self._name):
            raise UserError(f"{self._name}: {trouble['last_error']}; try again later: it goes on from there")

    def _feed(self, sender: Sender, progress: Callable[[], object]) -> bool:
        """Hand over everything in the order of steps. Return False if the tracker is given up."""
        others = sorted(self._others, key=lambda item: item.step)
        going_on = sender.open()
        for record in _records(self._run):
            going_on = going_on and sender.advance(record.step, record)
            while going_on and others and others[0].step <= record.step:
                going_on = sender.send(others.pop(0))
            if not going_on:
                return False
            progress()
        return going_on and all(sender.send(item) for item in others)

    def _ask(self, question: Callable[[RunInfo], Set[int] | None]) -> Set[int] | None:
        try:
            return question(self.info)
        except UserError:
            raise
        except Exception as error:  # a tracker may raise anything
            raise UserError(f"{self._name}: what it holds cannot be read: {describe(error)}") from error

    def _look(self, held: Set[int] | None) -> None:
        """See what the tracker lacks, of which steps it `held` says that it holds."""
        ledger, name = self._ledger, self._name
        if held is not None and not held and ledger.last(name) >= 0:
            ledger.forget(name)  # whatever was delivered once is gone
        last = ledger.last(name)
        self._lacking: set[int] | None = None if held is None else set()
        self._summary: dict[str, float] = {}
        self.held = self.records = 0
        for record in _records(self._run):
            lacks = record.step > last if held is None else record.step not in held
            self.held += not lacks
            self.records += lacks
            if lacks and self._lacking is not None:
                self._lacking.add(record.step)
            self._summary |= {key: value for key, value in record.metrics.items() if key.startswith("final/")}
        missed = set(ledger.missed(name))
        images, alerts = (
            [item for item in every if item.step > ledger.last(name, call) or (call, *item[2:4]) in missed]
            for call, every in (("image", _images(self._run)), ("alert", _alerts(self._run)))
        )
        self._others = [*images, *alerts]
        self.images, self.alerts = len(images), len(alerts)
        self.complete = not (self.records or self._others) and ledger.is_finished(name)


def _records(run: RunDir) -> Iterator[Record]:
    return map(to_record, read_journal(run.metrics))


def _images(run: RunDir) -> Iterator[Item]:
    found = [(match, path) for path in run.visualizations.glob("*.png") if (match := _PICTURE.fullmatch(path.name))]
    for match, path in sorted(found, key=lambda each: (int(each[0]["step"]), each[0]["name"])):
        with path.open("rb") as file:
            if file.read(len(_PNG)) != _PNG:
                log.warning("%s is no picture: it is left out", path)
                continue
        yield _image(match["name"], path.absolute(), int(match["step"]))


def _image(name: str, path: Path, step: int) -> Item:
    return Item(0, "image", name, step, (name, path, step))


def _alerts(run: RunDir) -> Iterator[Item]:
    for event in read_events(run.events):
        if event.get("alert", True):
            named = str(event.get("detector", ""))
            alert = Alert(event["kind"], event["message"], event["severity"].value, event["step"], named)
            yield Item(0, "alert", alert.title, alert.step, (alert,))
