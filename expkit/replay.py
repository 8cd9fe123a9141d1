"""Sending a run to a tracker after the fact: its journal, pictures and events, each once however often it is done."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.journal import read_journal, to_record
from expkit.record import Record
from expkit.status import read_status
from expkit.trackers.base import Alert, RunInfo, Tracker
from expkit.trackers.ledger import Ledger
from expkit.trackers.sender import Item, Sender, Tally

__all__ = ["Replay", "run_info"]

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
    branch = int(stored.get("branch") or 0)
    values: dict[str, Any] = {
        "project": said.get("project") or "expkit",
        "name": said.get("name") or run.id,
        "group": said.get("group") or (run.id if branch else None),
        "tags": tuple(map(str, said.get("tags") or ())),
        "notes": said.get("notes"),
        **changes,
    }
    return RunInfo(f"{run.id}-r{branch}" if branch else run.id, run.root.absolute(), config=config, **values)


@dataclass
class _Lacking:
    """What a tracker lacks of a run."""

    held: int = 0  # records that it has
    records: int = 0
    images: list[Item] = field(default_factory=list)
    alerts: list[Item] = field(default_factory=list)
    summary: dict[str, float] = field(default_factory=dict)


class Replay:
    """Sends what a tracker lacks of a run, and closes the run in it. Nothing must write to the run meanwhile.

    What the tool holds it says itself, where it can; otherwise `logs/delivery.json` knows.

    Args:
        run: the run directory.
        name: what the tracker is called in `logs/delivery.json`.
        tracker: not yet started.
        info: how the run is to show up in the tool; None means as config.json says.

    Attributes:
        held: records that the tracker holds already.
        records, images, alerts: how many it lacks.
        complete: whether it lacks nothing, and the run is closed in it.

    Raises:
        UserError: `run` is no run directory.
    """

    def __init__(self, run: RunDir, name: str, tracker: Tracker, info: RunInfo | None = None) -> None:
        self._run, self._name, self._tracker = run, name, tracker
        self.info = info or run_info(run)
        self._ledger = Ledger(self.info.dir, self.info.id)
        self._look()
        self.held, self.records = self._lacking.held, self._lacking.records
        self.images, self.alerts = len(self._lacking.images), len(self._lacking.alerts)
        nothing = not (self.records or self.images or self.alerts)
        self.complete = nothing and self._ledger.is_finished(name)

    def send(self, progress: Callable[[], object] = lambda: None) -> None:
        """Send it.

        Args:
            progress: called for every record of the run, sent or not.

        Raises:
            UserError: the tracker failed. What it took is noted, and the next replay sends the rest.
        """
        if self._tracker.set_aside(self.info):
            self._ledger.forget(self._name)
            self._look()
        now = threading.Event()
        now.set()  # there is no training that could go on while the tracker is down
        tally = Tally(self._name, training=False)
        sender = Sender(self._name, self._tracker, self.info, self._ledger, now, tally)
        try:
            if self._feed(sender, progress):
                state = read_status(self._run.status).get("state", "finished")
                sender.finish(self._lacking.summary, failed=state in ("failed", "starting", "running"))
        finally:
            self._ledger.save(force=True)
        trouble = tally.summary()
        if trouble and not self._ledger.is_finished(self._name):
            raise UserError(f"{self._name}: {trouble['last_error']}; try again later: it goes on from there")

    def _feed(self, sender: Sender, progress: Callable[[], object]) -> bool:
        """Hand over everything in the order of steps. Return False if the tracker is given up."""
        others = sorted([*self._lacking.images, *self._lacking.alerts], key=lambda item: item.step)
        going_on = sender.open()
        for record in _records(self._run):
            going_on = going_on and sender.advance(record.step, record)
            while going_on and others and others[0].step <= record.step:
                going_on = sender.send(others.pop(0))
            if not going_on:
                return False
            progress()
        return going_on and all(sender.send(item) for item in others)

    def _look(self) -> None:
        """See what the tracker lacks."""
        held, name = self._tracker.holds(self.info), self._name
        if held is not None and held < 0:
            self._ledger.forget(name)  # whatever was delivered once is gone
        last = self._ledger.last(name) if held is None else held
        found = self._lacking = _Lacking()
        for record in _records(self._run):
            found.held += record.step <= last
            found.records += record.step > last
            final = {key: value for key, value in record.metrics.items() if key.startswith("final/")}
            found.summary.update(final)
        missed = set(self._ledger.missed(name))
        for items, call, all_of_them in ((found.images, "image", _images), (found.alerts, "alert", _alerts)):
            last = self._ledger.last(name, call)
            items += [each for each in all_of_them(self._run) if each.step > last or (call, *each[2:4]) in missed]


def _records(run: RunDir) -> Iterator[Record]:
    return map(to_record, read_journal(run.metrics)) if run.metrics.exists() else iter(())


def _images(run: RunDir) -> Iterator[Item]:
    found = [(match, path) for path in run.visualizations.glob("*.png") if (match := _PICTURE.fullmatch(path.name))]
    for match, path in sorted(found, key=lambda each: (int(each[0]["step"]), each[0]["name"])):
        yield _image(match["name"], path.absolute(), int(match["step"]))


def _image(name: str, path: Path, step: int) -> Item:
    return Item(0, "image", name, step, (name, path, step))


def _alerts(run: RunDir) -> Iterator[Item]:
    try:
        lines = run.events.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            event = orjson.loads(line)
            alert = Alert(event["kind"], event["message"], event["severity"], int(event["step"]))
        except (ValueError, TypeError, KeyError):
            continue  # a torn line
        yield Item(0, "alert", alert.title, alert.step, (alert,))
