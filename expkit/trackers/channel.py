"""One tracker behind a bounded queue, with a thread that empties it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from expkit.errors import describe
from expkit.trackers.base import RunInfo, Tracker
from expkit.trackers.known import option_of
from expkit.trackers.ledger import Ledger
from expkit.trackers.sender import Item, Sender
from expkit.trackers.tally import Tally

__all__ = ["Channel"]

log = logging.getLogger("expkit")

_POLL_INTERVAL = 0.1  # seconds


class Channel:
    """One tracker, its queue and its thread. The caller's thread only puts; the tracker runs in its own.

    Records that do not fit into the queue come from the journal later; pictures and alerts that do not are counted.
    """

    def __init__(self, name: str, tracker: Tracker, queue_size: int) -> None:
        self.name = name
        self.tracker = tracker
        # A deque that the thread polls: waking a thread that waits at a queue costs the caller 10 microseconds.
        self._items: deque[Item] = deque()
        self._dropped: deque[Item] = deque()  # pictures and alerts that did not fit
        self._capacity = queue_size
        self._overflowed = False
        self._number = 0  # of what was put last
        self._seen = 0  # of what was taken out of the queue last
        self._busy = 0  # 1 while that is not done
        self._last_put = -1  # step of the record that was put last
        self._gap = 0  # records before it that did not fit, and have not come from the journal yet
        self._closing = threading.Event()
        self._result: tuple[Mapping[str, Any], bool] = ({}, False)
        self._tally = Tally(name)
        self._sender: Sender | None = None
        self._advice = ""
        self._thread: threading.Thread | None = None

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any more for a call that has not returned."""
        return self._sender is not None and self._sender.abandoned

    @property
    def started(self) -> bool:
        """Whether the run was opened in the tool, once at least."""
        return self._sender is not None and self._sender.started

    def start(self, run: RunInfo, ledger: Ledger) -> None:
        """Begin to deliver."""
        self._advice = f"expkit replay {run.dir}{option_of(self.tracker)} sends what is missing"
        self._sender = Sender(self.name, self.tracker, run, ledger, self._closing, self._tally)
        arguments = (self._sender, run, ledger)
        thread = threading.Thread(target=self._work, args=arguments, name=f"expkit-tracker-{self.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread left
            self._sender.attempted.set()
            self._tally.failed("start", describe(error), again=False)
            return
        self._thread = thread

    def wait_for_start(self, timeout: float) -> bool:
        """Wait until the first attempt to open the run has ended. Return whether it has."""
        return self._sender is not None and self._sender.attempted.wait(timeout)

    def put(self, call: str, name: str, step: int, args: tuple[Any, ...]) -> None:
        """Let a call of the tracker wait for its turn."""
        item = Item(self._number + 1, call, name, step, args)
        if len(self._items) < self._capacity:
            self._items.append(item)
        elif not self._overflow(item):
            return
        self._number = item.number
        if call == "log":
            self._last_put = step

    def close(self, summary: Mapping[str, Any], failed: bool) -> None:
        """Take nothing more, and close the run once everything is delivered."""
        self._capacity = 0
        self._result = (summary, failed)
        self._closing.set()

    def join(self, timeout: float, allowed: float) -> None:
        """Wait for the thread to end, `timeout` seconds at most; then say and count what it did not deliver."""
        if self._sender is None:
            return
        if self._thread is not None:
            self._thread.join(timeout)
        doing = self._tally.doing
        if self._thread is not None and self._thread.is_alive():
            self._sender.abandoned = True
            self._tally.timed_out(doing, allowed)
            self.tracker.abandon()
        left = self._number - self._seen + self._gap + self._busy
        missing = self._tally.lost(max(0, left - self._sender.sent))
        if self._sender.abandoned:
            what = f"abandoned in {doing}()" if doing else "abandoned"
            lacks = f"{missing} item(s) not delivered" if missing else "the last moments perhaps not written"
            log.warning("tracker %s: %s after %g s, with %s; %s", self.name, what, allowed, lacks, self._advice)
        elif missing:
            message = "tracker %s: the run ends with %d item(s) not delivered; %s"
            log.warning(message, self.name, missing, self._advice)

    def trouble(self) -> dict[str, Any]:
        """Return what went wrong so far; empty if nothing did."""
        return self._tally.summary()

    def _overflow(self, item: Item) -> bool:
        """Note that `item` does not fit into the queue. Return whether something may still be done about it."""
        if self._capacity and not self._overflowed:
            self._overflowed = True
            message = "tracker %s: %d items wait; records that do not fit come from the journal later"
            log.warning(message, self.name, self._capacity)
        if self._capacity and item.call == "log":
            return True
        if len(self._dropped) < self._capacity:
            self._dropped.append(item)
            return True
        self._tally.lost(1)
        return False

    # The rest runs in the thread.

    def _work(self, sender: Sender, run: RunInfo, ledger: Ledger) -> None:
        closing = False
        going_on = sender.open() and sender.advance(run.resumed_step)
        while going_on and not closing:
            closing = self._closing.is_set()  # asked first: what came before it is in the deque then
            while going_on and self._items:
                going_on = self._handle(sender, self._items[0])
                if going_on:
                    self._items.popleft()
                ledger.save()
            if going_on and closing:
                self._count_gap(sender, self._number)
                if sender.advance(self._last_put, gap=self._gap):
                    self._gap = 0
            elif going_on:
                ledger.save()
                self._closing.wait(_POLL_INTERVAL)
        self._closing.wait()
        sender.finish(*self._result)

    def _handle(self, sender: Sender, item: Item) -> bool:
        """Deliver `item`, or find that it never will be. Return False if the tracker is given up."""
        self._count_gap(sender, item.number - 1)
        self._seen, self._busy = item.number, 1
        if item.call != "log":
            going_on = sender.send(item)
        elif going_on := sender.advance(item.step, item.args[0], self._gap):
            self._gap = 0
        self._busy = int(not going_on)
        return going_on

    def _count_gap(self, sender: Sender, number: int) -> None:
        """See what did not fit into the queue, up to item `number`."""
        self._gap += number - self._seen
        self._seen = number
        while self._dropped and self._dropped[0].number <= number:
            sender.miss(self._dropped.popleft())
            self._gap -= 1
