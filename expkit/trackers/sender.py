"""Brings what there is to one tracker: what fails is tried again, and what is missing is read from the journal."""

from __future__ import annotations

import logging
import operator
import threading
import time
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple, SupportsIndex

from expkit.errors import ConfigError
from expkit.place import describe_at
from expkit.record import Record
from expkit.trackers.backlog import Backlog
from expkit.trackers.base import RunInfo, Tracker
from expkit.trackers.ledger import Ledger
from expkit.trackers.tally import Tally

__all__ = ["Item", "Sender"]

log = logging.getLogger("expkit")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds before a tracker that failed is opened again
_FAILED = object()


class Item(NamedTuple):
    """A call that waits for its turn. `number` counts what was put, so that a gap shows what did not fit."""

    number: int
    call: str
    name: str
    step: int
    args: tuple[Any, ...]


class Sender:
    """Calls one tracker, from one thread.

    When a record fails, the tracker is opened again after a pause, with the record and what the tool has lost before it
    read from the journal. A record that is refused twice although the next one is taken is left out; a tracker that
    takes none is down, and is tried again and again.

    Args:
        name: what the tracker is called.
        tracker: the tracker.
        run: whose records these are.
        ledger: what was taken before.
        closing: set when there is no time left for pauses.
        tally: what goes wrong.
        lacking: the steps that the tool lacks, if that is known; otherwise those after the last that it holds.

    Attributes:
        sent: records of the current call of `advance` that the tracker has.
        attempted: set once the first attempt to open the run has ended.
        started: whether the run was opened in the tool, once at least.
        abandoned: set by who no longer waits for it: it then stops at the next opportunity.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        run: RunInfo,
        ledger: Ledger,
        closing: threading.Event,
        tally: Tally,
        lacking: Container[int] | None = None,
    ) -> None:
        self.sent = 0
        self.attempted = threading.Event()
        self.started = False
        self.abandoned = False
        self._name, self._tracker, self._run, self._ledger = name, tracker, run, ledger
        self._closing, self._tally, self._lacking = closing, tally, lacking
        self._backlog = Backlog(run.dir / "logs" / "metrics.jsonl")
        self._open = False
        self._taken = -1  # the last step that the tracker took
        self._done = -1  # the last step that it has, or never will
        self._previous = run.resumed_step  # the step up to which records were to be sent last
        self._from = run.resumed_step  # the same, before the records that are being sent
        self._behind = True  # whether the tracker may lack records before the next one
        self._drawn_before = ledger.last(name, "image")  # a resume draws pictures again that the tool has
        self._missed = set(ledger.missed(name))
        self._refused = -1  # the step at which it failed last
        self._doubtful: int | None = None  # a step that it refused twice, until it takes another
        self._owed = 0  # records that were handled, but turned out not to be delivered
        self._skipped: set[int] = set()
        self._again: list[Item] = []  # pictures and alerts that failed once
        self._unsettled: list[Item] = []  # those that the tool may hold in memory until the next record
        self._pause = _FIRST_PAUSE
        self._tried_last = False
        self._hopeless = False  # what is configured cannot be
        self._down_since: float | None = None

    def open(self) -> bool:
        """Open the run in the tracker if it is not. Return False if the tracker is given up."""
        while not self._open:
            if self._hopeless or (self._down_since is not None and not self._wait()):
                return False
            held = self._call("start", self._run)
            self.attempted.set()
            if held is _FAILED:
                continue
            self._open = self.started = True
            # What the tool itself says that it holds is exact; the file may be a moment ahead of or behind it.
            self._done = max(self._ledger.last(self._name), self._taken) if held is None else held
            if self._lacking is not None:
                self._done = self._taken
            self._behind = True
            self._backlog.rewind()
            self._ledger.begin(self._name)
        return not self.abandoned

    def advance(self, until: int, last: Record | None = None, gap: int = 0) -> bool:
        """Deliver the records up to that of step `until`, `last`. Return False if the tracker is given up.

        The journal should hold `gap` of them, since the last time.
        """
        previous = self._from = self._previous
        self._previous = until
        self._behind = self._behind or gap > 0
        while self._done < until:
            if not self.open():
                return False
            found = self.sent = 0
            for record in self._due(until, last):
                new = record is last or record.step > previous
                found += new and record is not last
                if record.step <= self._done:
                    self.sent += new
                elif record.step not in self._skipped and (self._lacking is None or record.step in self._lacking):
                    if self.abandoned:
                        return False
                    if self._call("log", record) is not _FAILED:
                        self.sent += new
                        self._worked(record.step)
                    elif not self._doubt(record.step):
                        break
            else:
                self._behind = False
                # No journal, or a disk that has not taken all of it.
                self._tally.lost(max(0, gap - found))
                self._send_again()  # after the records of their steps, by which a tool says what it holds
                break
        self.sent = 0
        return True

    def send(self, item: Item) -> bool:
        """Deliver a picture or an alert, or keep it for later. Return False if the tracker is given up."""
        if not self.open():
            return False
        was_missed = (item.call, item.name, item.step) in self._missed
        if item.call == "image" and item.step <= self._drawn_before and not was_missed:
            return True
        if self._call(item.call, *item.args) is not _FAILED:
            self._unsettled.append(item)
        else:  # the next record shows whether the tracker is down
            self._again.append(item)
        return True

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        """Close the run: also that of a tracker that was given up, as well as it can be done."""
        if self._doubtful is not None:
            self._skip(self._doubtful)
        self._tally.lost(self._owed)
        self._backlog.rewind()
        if self._open:
            self._send_again()
        if self.abandoned or not self.started or self._call("finish", summary, failed) is _FAILED:
            return
        self._settle()
        if self._open and not self._tally.undelivered:
            self._ledger.begin(self._name, finished=True)

    def miss(self, item: Item) -> None:
        """Note that `item` is not delivered."""
        self._ledger.miss(self._name, item.call, item.name, item.step)
        self._tally.lost(1)

    def _due(self, until: int, last: Record | None) -> Iterator[Record]:
        """Yield the records up to that of step `until`, `last`, as far as the tracker may lack them."""
        if self._behind:
            yield from self._backlog.upto(until if last is None else last.step - 1)
        if last is not None:
            yield last

    def _worked(self, step: int) -> None:
        self._done = self._taken = step
        self._owed = 0
        self._ledger.took(self._name, "log", step)
        self._ledger.save()
        self._settle()
        if self._doubtful is not None:
            self._skip(self._doubtful)
        self._pause, self._tried_last = _FIRST_PAUSE, False
        if self._down_since is not None:
            log.info("tracker %s works again after %.0f s", self._name, time.monotonic() - self._down_since)
            self._down_since = None

    def _doubt(self, step: int) -> bool:
        """Decide what it means that the record of `step` failed. Return whether to go on with the next."""
        if self._doubtful is not None and step != self._doubtful:
            # Two in a row: it is not for what the records hold.
            self._owed = int(self._doubtful <= self._from)
            self._doubtful = None
        elif step == self._refused:
            self._doubtful = self._done = step
            return True
        self._refused, self._open = step, False
        return False

    def _skip(self, step: int) -> None:
        self._skipped.add(step)
        self._doubtful = None
        self.miss(Item(0, "log", "", step, ()))

    def _send_again(self) -> None:
        # At the second attempt it is for what they hold.
        again, self._again = self._again, []
        for item in again:
            if not self.abandoned and self._call(item.call, *item.args) is not _FAILED:
                self._unsettled.append(item)
            else:
                self.miss(item)

    def _settle(self) -> None:
        for item in self._unsettled:
            self._ledger.took(self._name, item.call, item.step, item.name)
        self._unsettled.clear()

    def _wait(self) -> bool:
        """Wait before the tracker is tried again. Return False if it has had its last chance."""
        if not self._closing.is_set():
            self._closing.wait(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if self._closing.is_set():
            again, self._tried_last = not self._tried_last, True
            return again and not self.abandoned
        return True

    def _call(self, name: str, *args: Any) -> Any:
        """Call a method of the tracker. Return its answer, or _FAILED."""
        self._tally.doing = name
        try:
            answer = getattr(self._tracker, name)(*args)
            return _step(answer) if name == "start" else answer
        except BaseException as error:  # a tracker may raise anything, SystemExit too
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # somebody waits for a replay, and no longer wants to
            self._hopeless = isinstance(error, ConfigError)
            self._tally.failed(name, describe_at(error), again=not self._hopeless)
            if self._down_since is None:
                self._down_since = time.monotonic()
            return _FAILED
        finally:
            self._tally.doing = ""


def _step(answer: object) -> int | None:
    """Return what `start` returned, if it can be that.

    Raises:
        TypeError: it is neither a step nor None.
    """
    if answer is None:
        return None
    if isinstance(answer, SupportsIndex) and not isinstance(answer, bool):
        return operator.index(answer)
    raise TypeError(f"start() returned {answer!r}, but it must return the last step that the tool holds, or None")
