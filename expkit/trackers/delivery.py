"""Delivery: brings records to the trackers, each behind a queue and a thread of its own.

The training loop only puts a record into the queues, which takes microseconds. A tracker that is slow, raises
or hangs costs the others nothing: what it misses is counted, said once, and stays in the journal.

The threads are daemons, not those of a ThreadPoolExecutor, which waits for a hung task at interpreter exit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expkit.dist import is_main_process
from expkit.errors import UserError, describe
from expkit.record import Record
from expkit.trackers.base import Alert, RunInfo, Tracker
from expkit.trackers.channel import Channel
from expkit.trackers.ledger import Ledger

__all__ = ["Delivery"]

log = logging.getLogger("expkit")


class Delivery:
    """Sends every record to all trackers, without ever blocking or raising into the training loop.

    Args:
        trackers: name -> tracker; the names appear in messages and in `logs/delivery.json`.
        queue_size: records, pictures and alerts that may wait for one tracker. Records beyond come from the journal
            later; pictures and alerts beyond are not delivered.
        start_timeout: seconds that `start` waits for all trackers together: by default not at all, because
            importing them takes as long as many steps of training. One that takes longer goes on
            starting in its thread and finds its records in the queue.
        finish_timeout: seconds that `finish` waits for all trackers together before it abandons the rest.

    Raises:
        UserError: a number that cannot be.
    """

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        *,
        queue_size: int = 10_000,
        start_timeout: float = 0.0,
        finish_timeout: float = 30.0,
    ) -> None:
        if not isinstance(queue_size, int) or isinstance(queue_size, bool) or queue_size < 1:
            raise UserError(f"queue_size={queue_size}: it must be a whole number of at least 1")
        for name, seconds in (("start_timeout", start_timeout), ("finish_timeout", finish_timeout)):
            if (
                isinstance(seconds, bool)
                or not isinstance(seconds, int | float)
                or not 0 <= seconds < threading.TIMEOUT_MAX
            ):
                raise UserError(f"{name}={seconds}: it must be a number of seconds, at least 0")
        self._channels = [Channel(name, tracker, queue_size) for name, tracker in trackers.items()]
        self._start_timeout = start_timeout
        self._finish_timeout = finish_timeout
        self._ledger: Ledger | None = None

    def start(self, run: RunInfo) -> None:
        """Open the run in every tracker. Steps that a tracker holds of it already are not sent again.

        Of several processes that train together, one delivers: rank 0. In the others every call does nothing.
        """
        if not is_main_process():
            self._channels = []
            return
        self._ledger = Ledger(run.dir, run.id, fresh=run.resumed_step <= 0)
        for channel in self._channels:
            channel.start(run, self._ledger)
        deadline = time.monotonic() + self._start_timeout
        for channel in self._channels:
            late = not channel.wait_for_start(max(0.0, deadline - time.monotonic()))
            if late and self._start_timeout:
                log.info("tracker %s is still starting: its records wait in a queue", channel.name)

    def log(self, record: Record) -> None:
        """Send a record. Steps must increase. Costs a few microseconds, whatever the trackers do."""
        self._put("log", "", record.step, record)

    def image(self, name: str, path: Path, step: int) -> None:
        """Send a picture file that shows `step`. The file must stay where it is."""
        self._put("image", name, step, name, path, step)

    def alert(self, alert: Alert) -> None:
        """Send a message for people. Unlike records it is sent whatever its step, after a resume too."""
        self._put("alert", alert.title, alert.step, alert)

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
        if self._ledger is not None:
            self._ledger.save(force=True, but={channel.name for channel in self._channels if channel.abandoned})

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

    def _put(self, call: str, name: str, step: int, *args: Any) -> None:
        for channel in self._channels:
            channel.put(call, name, step, args)
