"""What went wrong with a tracker, counted and said."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from expkit.secrets import mask_text

__all__ = ["Tally"]

log = logging.getLogger("expkit")

_LONG_CALL = 60.0  # seconds after which a call that has not returned is said


class Tally:
    """What went wrong with one tracker. Any thread may call it.

    Args:
        name: what the tracker is called.
        training: whether training goes on meanwhile, which is said.
    """

    def __init__(self, name: str, training: bool = True) -> None:
        self._name, self._training = name, training
        self._lock = threading.Lock()
        self._failures = 0
        self._undelivered = 0
        self._last_error = ""
        self._began: tuple[str, float] | None = None
        self._said_long = False

    @property
    def doing(self) -> str:
        """The call that the tracker is in, or nothing."""
        began = self._began
        return began[0] if began else ""

    @doing.setter
    def doing(self, call: str) -> None:
        self._began = (call, time.monotonic()) if call else None

    @property
    def undelivered(self) -> int:
        """How many items were not delivered."""
        return self._undelivered

    def failed(self, call: str, cause: str, again: bool = True) -> None:
        """Count a call that failed. The first one is said, and whether it is tried `again`."""
        cause = mask_text(cause)  # a server's refusal may tell the key
        if self._count(f"{call}: {cause}") == 1 and self._training:
            goes_on = "training goes on, and it is tried again" if again else "training goes on without it"
            if call == "finish":
                goes_on = "the journal has everything"
            log.warning("tracker %s: %s() failed: %s (said once; %s)", self._name, call, cause, goes_on)

    def timed_out(self, call: str, seconds: float) -> None:
        """Count a call, if there was one, that nobody waits for any more."""
        what = f"not done after {seconds:g} s"
        self._count(f"{call}: {what}" if call else what)

    def lost(self, items: int) -> int:
        """Count items that were not delivered; return how many there have been."""
        with self._lock:
            self._undelivered += items
            return self._undelivered

    def _count(self, error: str) -> int:
        with self._lock:
            self._failures += 1
            self._last_error = error
            return self._failures

    def summary(self) -> dict[str, Any]:
        """Return the counts; {} if nothing went wrong. A call that takes very long is said, once."""
        began = self._began
        if began is not None and time.monotonic() - began[1] > _LONG_CALL and not self._said_long:
            self._said_long = True
            log.warning("tracker %s: %s() takes more than %d s; what follows waits", self._name, began[0], _LONG_CALL)
        with self._lock:
            if not (self._failures or self._undelivered):
                return {}
            counts = {"failures": self._failures, "undelivered": self._undelivered}
            return {**counts, "last_error": self._last_error}
