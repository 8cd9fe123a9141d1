"""Alerts as JSON, posted to an address of one's own: a chat, a pager. It never holds up who has something to say."""

from __future__ import annotations

import json
import logging
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from expkit.errors import UserError, describe

__all__ = ["Webhook"]

log = logging.getLogger("expkit")

_WAITING = 100  # alerts
_PAUSES = (1.0, 4.0)  # seconds before the second and the third try


class Webhook:
    """Posts one JSON object for each alert, from a thread of its own.

    What cannot be delivered in three tries, or does not fit in the queue, is dropped and counted; the first time that
    is said, without the address, which often holds a key.

    Args:
        url: where to, http or https.
        timeout: seconds that the receiver has to answer.
        pauses: seconds before each further try.
        waiting: alerts that the queue holds.

    Raises:
        UserError: it is no such address.
    """

    def __init__(
        self, url: str, timeout: float = 10.0, pauses: tuple[float, ...] = _PAUSES, waiting: int = _WAITING
    ) -> None:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError("webhook needs an address that begins with http:// or https://")
        self._url, self._host = url, parts.hostname
        self._timeout, self._pauses = timeout, pauses
        self._queue: queue.Queue[bytes | None] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None
        self._given_up = threading.Event()
        self._cut_off = False
        self.lost = 0

    def send(self, alert: Mapping[str, Any]) -> None:
        """Post `alert`, plain JSON values, when it is its turn. Returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="expkit-webhook", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(json.dumps(alert).encode())
        except queue.Full:
            self._lose("it is too slow")

    @property
    def busy(self) -> bool:
        """Whether an alert is on its way, or was when it was closed: neither delivered nor given up after all tries."""
        return self._cut_off or (self._thread is not None and self._queue.unfinished_tasks > 0)

    def close(self, timeout: float = 5.0) -> None:
        """Wait for what is on its way, at most `timeout` seconds."""
        if self._thread is None:
            return
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            pass
        else:
            self._thread.join(timeout)
        self._cut_off = self._thread.is_alive()
        self._given_up.set()
        if self._cut_off:
            log.warning("webhook at %s: %d alert(s) are not delivered", self._host, self._queue.qsize() or 1)
        self._thread = None

    def _run(self) -> None:
        while (body := self._queue.get()) is not None:
            trouble = self._deliver(body)
            if trouble is not None:
                self._lose(trouble)
            self._queue.task_done()

    def _deliver(self, body: bytes) -> str | None:
        """Post it, again if need be. Return what went wrong, or None."""
        trouble = None
        for pause in (0.0, *self._pauses):
            if self._given_up.wait(pause):
                return trouble or "the run has ended"
            request = urllib.request.Request(  # noqa: S310 - the scheme is checked
                self._url, body, {"Content-Type": "application/json"}, method="POST"
            )
            try:
                with urllib.request.urlopen(request, timeout=self._timeout):  # noqa: S310
                    return None
            except urllib.error.HTTPError as error:
                trouble = f"HTTP {error.code}"
                if error.code not in (408, 429) and error.code < 500:
                    return trouble  # it will not want it the next time either
            except Exception as error:  # noqa: BLE001 - whatever a network does: an alert is not worth a run
                trouble = describe(error)
        return trouble

    def _lose(self, trouble: str) -> None:
        self.lost += 1
        if self.lost == 1:
            log.warning("webhook at %s: an alert is not delivered (%s); more are counted only", self._host, trouble)
