"""Delivery: brings records to the trackers, each behind a queue and a thread of its own.

The training loop only puts a record into the queues, which takes microseconds. A tracker that is slow, raises
or hangs costs the others nothing: what it misses is counted, said once, and stays in the journal.

The threads are daemons, not those of a ThreadPoolExecutor, which waits for a hung task at interpreter exit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from expkit.errors import describe
from expkit.journal import JournalReader, to_record
from expkit.record import Record
from expkit.trackers.base import Alert, RunInfo, Tracker
from expkit.trackers.watermarks import Watermarks

__all__ = ["Delivery"]

log = logging.getLogger("expkit")

_ITEMS = ("log", "image", "alert")  # the calls that carry something
_POLL_INTERVAL = 0.1  # seconds


class Delivery:
    """Sends every record to all trackers, without ever blocking or raising into the training loop.

    Args:
        trackers: name -> tracker; the names appear in messages and in `logs/delivery.json`.
        queue_size: records, pictures and alerts that may wait for one tracker; more are not delivered.
        start_timeout: seconds that `start` waits for all trackers together: by default not at all, because
            importing them takes as long as many steps of training. One that takes longer goes on
            starting in its thread and finds its records in the queue.
        finish_timeout: seconds that `finish` waits for all trackers together before it abandons the rest.
    """

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        *,
        queue_size: int = 10_000,
        start_timeout: float = 0.0,
        finish_timeout: float = 30.0,
    ) -> None:
        self._channels = [_Channel(name, tracker, queue_size) for name, tracker in trackers.items()]
        self._start_timeout = start_timeout
        self._finish_timeout = finish_timeout
        self._watermarks: Watermarks | None = None

    def start(self, run: RunInfo) -> None:
        """Open the run in every tracker. Steps that a tracker holds of it already are not sent again."""
        self._watermarks = Watermarks(run)
        for channel in self._channels:
            channel.start(run, self._watermarks)
        deadline = time.monotonic() + self._start_timeout
        for channel in self._channels:
            late = not channel.ready.wait(max(0.0, deadline - time.monotonic()))
            if late and self._start_timeout:
                log.info("tracker %s is still starting: its records wait in a queue", channel.name)

    def log(self, record: Record) -> None:
        """Send a record. Steps must increase. Costs a few microseconds, whatever the trackers do."""
        self._put(_Item("log", record.step, (record,)))

    def image(self, name: str, path: Path, step: int) -> None:
        """Send a picture file that shows `step`. The file must stay where it is."""
        self._put(_Item("image", step, (name, path, step)))

    def alert(self, alert: Alert) -> None:
        """Send a message for people. Unlike records it is sent whatever its step, after a resume too."""
        self._put(_Item("alert", None, (alert,)))

    def finish(
        self, summary: Mapping[str, Any] | None = None, failed: bool = False, timeout: float | None = None
    ) -> None:
        """Deliver what is queued and close the run in every tracker; abandon those that take too long.

        Args:
            summary: the final metrics.
            failed: whether the run ended with an error.
            timeout: seconds to wait, if not as long as usual.
        """
        allowed = self._finish_timeout if timeout is None else timeout
        for channel in self._channels:
            channel.close(dict(summary or {}), failed)
        deadline = time.monotonic() + allowed
        for channel in self._channels:
            channel.join(max(0.0, deadline - time.monotonic()), allowed)
        if self._watermarks is not None:
            self._watermarks.save(force=True)

    def failures(self) -> dict[str, dict[str, Any]]:
        """Return, for each tracker with trouble, how many calls failed and how many items were not delivered.

        An item is a record, a picture or an alert:
        `{"wandb": {"failures": 2, "undelivered": 40, "last_error": "log: ConnectionResetError"}}`.
        """
        return {channel.name: channel.trouble() for channel in self._channels if channel.trouble()}

    def where(self, run: RunInfo) -> list[str]:
        """Return what to type, or to open, to look at the run: a line for each tracker that has started."""
        lines = []
        for channel in self._channels:
            if not channel.started:
                continue
            try:
                lines.append(channel.tracker.where(run))
            except Exception as error:  # noqa: BLE001 - a tracker may be anybody's
                log.warning("tracker %s: where() failed: %s", channel.name, describe(error))
        return [line for line in lines if line]

    def _put(self, item: _Item) -> None:
        for channel in self._channels:
            channel.put(item)


class _Item(NamedTuple):
    """A call that waits in a queue. `step` is None where a resume has nothing to leave out."""

    call: str
    step: int | None
    args: tuple[Any, ...]


class _Channel:
    """One tracker, its queue and its thread. The caller's thread only puts; the tracker runs in its own."""

    def __init__(self, name: str, tracker: Tracker, queue_size: int) -> None:
        self.name = name
        self.ready = threading.Event()
        self.tracker = tracker
        # A deque that the thread polls: waking a thread that waits at a queue costs the caller 10 microseconds.
        self._items: deque[_Item] = deque()
        self._capacity = queue_size
        self._closing = threading.Event()
        self._result: tuple[Mapping[str, Any], bool] = ({}, False)
        self._thread: threading.Thread | None = None
        self.started = False
        self._skip_until = -1
        self._doing: str | None = None
        self._abandoned = False
        self._lock = threading.Lock()
        self._failures = 0
        self._undelivered = 0
        self._overflowed = False
        self._last_error = ""

    def start(self, run: RunInfo, watermarks: Watermarks) -> None:
        self._thread = threading.Thread(
            target=self._work, args=(run, watermarks), name=f"expkit-tracker-{self.name}", daemon=True
        )
        self._thread.start()

    def put(self, item: _Item) -> None:
        if len(self._items) < self._capacity:
            self._items.append(item)
        else:
            self._overflow()

    def close(self, summary: Mapping[str, Any], failed: bool) -> None:
        self._capacity = 0  # nothing may follow the last call
        self._result = (summary, failed)
        self._closing.set()

    def join(self, timeout: float, allowed: float) -> None:
        """Wait for the thread to end, `timeout` seconds at most; then count what it did not deliver."""
        if self._thread is None:
            return
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return
        self._abandoned = True
        doing = self._doing or "log"  # or between two of them
        items = len(self._items) + (doing in _ITEMS)
        self._count(items, f"{doing}: not done after {allowed:g} s")
        message = "tracker %s: abandoned in %s() after %g s, with %d items not delivered"
        log.warning(message, self.name, doing, allowed, items)

    def trouble(self) -> dict[str, Any]:
        """Return what went wrong so far; empty if nothing did."""
        with self._lock:
            if not (self._failures or self._undelivered):
                return {}
            counts = {"failures": self._failures, "undelivered": self._undelivered}
            return {**counts, "last_error": self._last_error}

    def _work(self, run: RunInfo, watermarks: Watermarks) -> None:
        self.started, held = self._call("start", run)
        # What the tool itself says that it holds is exact; the file may be a moment ahead of or behind it.
        self._skip_until = watermarks.get(self.name) if held is None else held
        self.ready.set()
        self._catch_up(run, watermarks)
        while not self._abandoned:
            closing = self._closing.is_set()  # asked first: what came before it is in the deque then
            while self._items and not self._abandoned:
                self._deliver(self._items.popleft(), watermarks)
                watermarks.save()
            if closing:
                if self.started and not self._abandoned:
                    self._call("finish", *self._result)
                return
            watermarks.save()
            self._closing.wait(_POLL_INTERVAL)

    def _catch_up(self, run: RunInfo, watermarks: Watermarks) -> None:
        """After a resume: send what the journal holds of the steps before it and the tracker does not."""
        if not self.started or run.resumed_step <= self._skip_until:
            return
        with JournalReader(run.dir / "logs" / "metrics.jsonl") as journal:
            for entry in journal:
                if self._abandoned or entry["step"] > run.resumed_step:
                    return
                if entry["step"] > self._skip_until:
                    self._deliver(_Item("log", entry["step"], (to_record(entry),)), watermarks)
                    watermarks.save()

    def _deliver(self, item: _Item, watermarks: Watermarks) -> None:
        if item.step is not None and item.step <= self._skip_until:
            return
        if not self.started:
            with self._lock:
                self._undelivered += 1
        elif self._call(item.call, *item.args)[0] and item.call == "log" and item.step is not None:
            watermarks.set(self.name, item.step)

    def _call(self, name: str, *args: Any) -> tuple[bool, Any]:
        """Call a method of the tracker. Return whether it worked, and what it returned."""
        self._doing = name
        try:
            return True, getattr(self.tracker, name)(*args)
        except BaseException as error:  # noqa: BLE001 - a tracker may raise anything, SystemExit too
            cause = describe(error)
            if self._count(int(name in _ITEMS), f"{name}: {cause}") == 1:
                message = "tracker %s: %s() failed: %s (said once; training goes on, the journal has everything)"
                log.warning(message, self.name, name, cause)
            return False, None
        finally:
            self._doing = None

    def _count(self, items: int, error: str) -> int:
        with self._lock:
            self._failures += 1
            self._undelivered += items
            self._last_error = error
            return self._failures

    def _overflow(self) -> None:
        with self._lock:
            self._undelivered += 1
            first, self._overflowed = not self._overflowed, True
            if first:
                self._last_error = "queue full" if self._capacity else "closed"
        if first and self._capacity:
            message = "tracker %s: %d items wait, so new ones are not delivered (the journal has them)"
            log.warning(message, self.name, self._capacity)
