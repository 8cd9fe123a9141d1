"""How far each tracker has got, kept in `logs/delivery.json`: a resume sends nothing twice and leaves no hole."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque

import orjson

from expkit.errors import describe
from expkit.files import write_json
from expkit.trackers.base import RunInfo

__all__ = ["Watermarks"]

log = logging.getLogger("expkit")

_SAVE_INTERVAL = 1.0  # seconds between two writes of the watermarks
_SETTLED = 1.0  # seconds after which a tool has surely written what it got (both flush every 0.5 s)


class Watermarks:
    """The last step that each tracker took, kept in `logs/delivery.json` as run id -> tracker -> step.

    The run id is in it because a rewind opens another tracker run for the same directory.
    """

    def __init__(self, run: RunInfo) -> None:
        self._path = run.dir / "logs" / "delivery.json"
        self._runs = self._read()
        if run.resumed_step <= 0:
            self._runs.pop(run.id, None)  # left by an attempt that ended before its first checkpoint
        self._steps = self._runs.setdefault(run.id, {})
        self._lock = threading.Lock()
        self._recent: dict[str, deque[tuple[float, int]]] = {}
        self._latest: dict[str, int] = {}
        self._saved = time.monotonic()

    def _read(self) -> dict[str, dict[str, int]]:
        try:
            content = orjson.loads(self._path.read_bytes())
            return {run: {name: int(step) for name, step in steps.items()} for run, steps in content.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read (%s): trackers may get steps twice", self._path, describe(error))
            return {}

    def get(self, name: str) -> int:
        return self._steps.get(name, -1)

    def set(self, name: str, step: int) -> None:
        with self._lock:
            self._latest[name] = step
            recent = self._recent.setdefault(name, deque())
            if not recent or time.monotonic() - recent[-1][0] > _SETTLED / 10:
                recent.append((time.monotonic(), step))

    def save(self, force: bool = False) -> None:
        """Write the file, at most once a second unless forced: then every step counts, else those that have settled.

        Tools keep what they get in memory for a moment. A step that was sent just before a kill is sent again.
        """
        now = time.monotonic()
        if not (force or now - self._saved >= _SAVE_INTERVAL):
            return
        with self._lock:
            before = dict(self._steps)
            for name, recent in self._recent.items():
                if not recent or recent[-1][1] != self._latest[name]:
                    recent.append((now, self._latest[name]))  # the last of a burst, which nothing follows
                while recent and recent[0][0] < now - _SETTLED:
                    self._steps[name] = recent.popleft()[1]
            if force:
                self._steps.update(self._latest)
            self._saved = now
            if self._steps == before:
                return
            # A full disk is said by the journal already, and costs no more here than some steps sent twice.
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._path, self._runs, durable=False)
