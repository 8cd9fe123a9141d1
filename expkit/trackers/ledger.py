"""What each tracker has got, in `logs/delivery.json`: a resume or replay sends nothing twice and leaves no hole."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Container
from pathlib import Path
from typing import Any

import orjson

from expkit.errors import describe
from expkit.files import write_json
from expkit.opening import read_whole

__all__ = ["Ledger"]

log = logging.getLogger("expkit")

_SAVE_INTERVAL = 1.0  # seconds between two writes of the file
_SETTLED = 1.0  # seconds after which a tool has surely written what it got (both flush every 0.5 s)
_MOST_MISSED = 1000  # entries that are kept of what a tracker did not take

_KINDS = {"log": "step", "image": "image", "alert": "alert"}  # call of a tracker -> name in the file


class Ledger:
    """What each tracker took, as run id -> tracker -> entry. Any thread may call it.

    An entry holds the last step of which a record (`step`), a picture (`image`) and an alert (`alert`) were taken;
    `missed`, what was refused or dropped before these, as [call, name, step]; and `finished`, if the run was closed.
    The run id is in it because a rewind opens another tracker run for the same directory.

    Args:
        run_dir: the run directory.
        run_id: the id that the trackers know the run by.
        fresh: forget what there is of this id, left by an attempt that ended before its first checkpoint.
    """

    def __init__(self, run_dir: Path, run_id: str, fresh: bool = False) -> None:
        self._path = run_dir / "logs" / "delivery.json"
        self._runs = self._read()
        if fresh:
            self._runs.pop(run_id, None)
        self._entries = self._runs.setdefault(run_id, {})
        self._lock = threading.Lock()
        self._recent: dict[tuple[str, str], deque[tuple[float, int]]] = {}
        self._latest: dict[tuple[str, str], int] = {}
        self._saved = time.monotonic()
        self._changed = False

    def last(self, tracker: str, call: str = "log") -> int:
        """Return the last step that `tracker` has taken by `call` (log, image or alert); -1 for none."""
        with self._lock:
            step: int = self._entries.get(tracker, {}).get(_KINDS[call], -1)
            return step

    def missed(self, tracker: str) -> list[tuple[str, str, int]]:
        """Return what `tracker` did not take, as (call, name, step)."""
        with self._lock:
            return [(call, name, step) for call, name, step in self._entries.get(tracker, {}).get("missed", [])]

    def is_finished(self, tracker: str) -> bool:
        """Whether the run has been closed in `tracker`."""
        with self._lock:
            return bool(self._entries.get(tracker, {}).get("finished"))

    def took(self, tracker: str, call: str, step: int, name: str = "") -> None:
        """Note that `tracker` took what belongs to `step`. It counts once the tool has had time to write it."""
        with self._lock:
            missed = self._entries.get(tracker, {}).get("missed", [])
            if [call, name, step] in missed:
                missed.remove([call, name, step])
                self._changed = True
                if step <= self._entries[tracker].get(_KINDS[call], -1):
                    return  # later ones were taken before
            self._latest[tracker, call] = step
            recent = self._recent.setdefault((tracker, call), deque())
            if not recent or time.monotonic() - recent[-1][0] > _SETTLED / 10:
                recent.append((time.monotonic(), step))

    def miss(self, tracker: str, call: str, name: str, step: int) -> None:
        """Note what `tracker` did not take."""
        with self._lock:
            missed = self._entry(tracker).setdefault("missed", [])
            if len(missed) < _MOST_MISSED and [call, name, step] not in missed:
                missed.append([call, name, step])

    def begin(self, tracker: str, finished: bool = False) -> None:
        """Note that the run is open in `tracker`, or, if `finished`, that it was closed with all that belongs to it."""
        with self._lock:
            entry = self._entry(tracker)
            if finished:
                entry["finished"] = True
            else:
                entry.pop("finished", None)

    def forget(self, tracker: str, up_to: int = -1) -> None:
        """Forget what `tracker` took after step `up_to`: it is to get that anew."""
        with self._lock:
            self._entries[tracker] = dict.fromkeys(_KINDS.values(), up_to) if up_to >= 0 else {}
            self._changed = True
            for key in [key for key in self._latest if key[0] == tracker]:
                del self._latest[key], self._recent[key]

    def save(self, force: bool = False, but: Container[str] = ()) -> None:
        """Write the file, at most once a second unless forced: then every step counts, else those that have settled.

        Args:
            force: the tools were closed, all `but` those named here.
            but: see there.

        Tools keep what they get in memory for a moment. A step that was sent just before a kill is sent again.
        """
        with self._lock:
            now = time.monotonic()
            if not (force or now - self._saved >= _SAVE_INTERVAL):
                return
            for (tracker, call), recent in self._recent.items():
                latest = self._latest[tracker, call]
                if not recent or recent[-1][1] != latest:
                    recent.append((now, latest))  # the last of a burst, which nothing follows
                settled = None
                while recent and ((force and tracker not in but) or recent[0][0] < now - _SETTLED):
                    settled = recent.popleft()[1]
                if settled is not None and self._entry(tracker).get(_KINDS[call]) != settled:
                    self._entry(tracker)[_KINDS[call]] = settled
            self._saved = now
            if not self._changed:
                return
            self._changed = False
            # A full disk is said by the journal already, and costs no more here than some steps sent twice.
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._path, self._runs, durable=False)

    def _entry(self, tracker: str) -> dict[str, Any]:
        """Return the entry of `tracker`, to change it."""
        self._changed = True
        entry: dict[str, Any] = self._entries.setdefault(tracker, {})
        return entry

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            content = orjson.loads(read_whole(self._path))
            return {run: {name: _checked(entry) for name, entry in each.items()} for run, each in content.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read (%s): trackers may get steps twice", self._path, describe(error))
            return {}


def _checked(entry: Any) -> dict[str, Any]:
    if isinstance(entry, int):  # as the first versions of expkit wrote it
        return {"step": entry}
    checked: dict[str, Any] = {name: int(entry[name]) for name in _KINDS.values() if name in entry}
    if missed := [[str(call), str(name), int(step)] for call, name, step in entry.get("missed", [])]:
        checked["missed"] = missed
    if entry.get("finished"):
        checked["finished"] = True
    return checked
