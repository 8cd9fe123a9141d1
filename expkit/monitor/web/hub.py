"""What is read once for all browsers: one thread refreshes the runs, and only while somebody looks."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from expkit.errors import describe
from expkit.monitor.monitor import TrainingMonitor

__all__ = ["Answer", "Hub"]

log = logging.getLogger("expkit")

#: Seconds between two readings: an alert is to be seen within 2 s, whatever the interval of the curves.
_EVERY = 0.7
#: Seconds after the last question in which the runs are still read.
_LOOKED = 10.0
_SLICE = 0.3  # seconds of reading, after which whoever asks gets an answer
_WAIT = 1.5  # seconds that a question waits for a reading that it started
_KEPT = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """JSON, and the tag that changes with it."""

    body: bytes
    tag: str


class Hub:
    """Holds the runs and what is said of them.

    Args:
        monitor: what reads them. It is used with `lock` held.
        interval: seconds between two drawings of a page, for the page.

    Attributes:
        lock: held by whoever reads or draws.
    """

    def __init__(self, monitor: TrainingMonitor, interval: float) -> None:
        self.monitor = monitor
        self.interval = interval
        self.lock = threading.RLock()
        self._every = min(_EVERY, interval)
        self._began = f"{os.getpid():x}{time.time_ns():x}"  # versions begin again with each server
        self._news = threading.Condition()
        self._asked = self._read = -math.inf  # monotonic
        self._state = Answer(b"{}", "")
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._failure = ""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="expkit-monitor-web", daemon=True)

    def start(self) -> None:
        """Begin to read, once somebody asks."""
        self._state = self._say()
        self._thread.start()

    def close(self) -> None:
        """End the thread, if it has begun."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._thread.ident is not None:
            self._thread.join(5)

    @property
    def version(self) -> str:
        """Changes with whatever was read."""
        return f"{self._began}-{'.'.join(f'{feed.generation}:{feed.version}' for feed in self.monitor.feeds)}"

    def state(self) -> Answer:
        """Return how the runs stand."""
        self.look()
        return self._state

    def answer(self, question: str, make: Callable[[], Any], known: str | None = None) -> Answer | None:
        """Return what `make` returns, as JSON: made once for each version of the runs.

        Args:
            question: what tells it from other answers.
            make: called with the lock held.
            known: the tag that the client has; if it is still right, None is returned and nothing is made.
        """
        self.look()
        with self.lock:
            mark = hashlib.blake2b(question.encode(), digest_size=6).hexdigest()
            tag = f'"{self.version}-{mark}"'
            if tag == known:
                return None
            if tag not in self._kept:
                self._kept[tag] = Answer(_json(make()), tag)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(tag)
            return self._kept[tag]

    def look(self) -> None:
        """Say that somebody looks; wait for what is new if nobody did for a while."""
        with self._news:
            self._asked = time.monotonic()
            if self._asked - self._read > 2 * self._every:
                before = self._read
                self._news.notify_all()
                self._news.wait_for(lambda: self._read != before or self._closed, _WAIT)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or time.monotonic() - self._asked < _LOOKED)
                if self._closed:
                    return
            whole = self._refresh()
            with self._news:
                self._read = time.monotonic()
                self._news.notify_all()
                if whole:
                    self._news.wait_for(lambda: self._closed, self._every)
            if not whole:
                time.sleep(0.01)  # lets others have the lock

    def _refresh(self) -> bool:
        """Read what is new, for a moment. Return whether that is all."""
        try:
            with self.lock:
                self.monitor.refresh(_SLICE)
                self._failure = ""
                self._state = self._say()
            return all(feed.caught_up for feed in self.monitor.feeds)
        except Exception as error:  # noqa: BLE001 - a disk that is away for a while, say: what was read stays
            failure = describe(error)
            if failure != self._failure:
                log.warning("the runs cannot be read now: %s", failure)
            with self.lock, contextlib.suppress(Exception):  # what cannot be said is not the end of the thread
                self._failure = failure
                self._state = self._say()
            return True

    def _say(self) -> Answer:
        from expkit.monitor.web.answers import state_of

        said = state_of(self.monitor, self.version, self.interval, self._failure)
        lasting = {**said, "runs": [{**run, "quiet_seconds": None} for run in said["runs"]]}
        tag = hashlib.blake2b(_json(lasting) + self._began.encode(), digest_size=8).hexdigest()
        return self._state if self._state.tag == f'"{tag}"' else Answer(_json(said), f'"{tag}"')


def _json(value: Any) -> bytes:
    """Return JSON. NaN and infinities are null, as in a journal."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
