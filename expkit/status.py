"""status.json: what a run is doing right now, with a heartbeat that says that its process lives."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from expkit.environment import slurm_ids
from expkit.errors import UserError, describe
from expkit.files import read_json, write_json
from expkit.forecast import Forecast
from expkit.machine.vitals import Vitals
from expkit.secrets import mask_text
from expkit.small_files import checked
from expkit.stopping import received_signal
from expkit.troubles import WriteTrouble

__all__ = ["StatusFile", "note_delivered", "read_status"]

#: So many endings are kept.
_ENDINGS = 100


def read_status(path: Path) -> dict[str, Any]:
    """Return what a status.json says; {} if it is not there or damaged. A run is none the worse: it is a snapshot.

    What cannot be a step, a time, a text ... where there should be one is left out.
    """
    try:
        return checked("status.json", read_json(path))
    except UserError:
        return {}


def note_delivered(path: Path, tracker: str) -> None:
    """Note in the status.json of a run that has ended that `tracker` lacks nothing of it any more.

    How often it failed is history, and stays. The caller holds the run's lock. A disk that refuses changes nothing.
    """
    status = read_status(path)
    trackers: Any = status.get("trackers")
    trouble = trackers.get(tracker) if isinstance(trackers, dict) else None
    if not (isinstance(trouble, dict) and trouble.get("undelivered")):
        return
    trouble["undelivered"] = 0
    with contextlib.suppress(OSError):
        moment = path.stat().st_mtime_ns
        write_json(path, status, durable=False)
        os.utime(path, ns=(moment, moment))  # when the run was active last


class StatusFile:
    """Keeps status.json, replaced atomically at most every `interval` seconds by a thread of its own.

    The training loop only sets attributes; it never waits for this file. `heartbeat` counts up while the process
    lives: readers judge by their own clock whether it does. What it notes of the machine lets `expkit.ending` tell
    afterwards why the process died.

    Args:
        path: status.json.
        observe: returns the fields that change (step, epoch, metrics ...); called from the thread. With `step` and
            `total_steps` among them, there is a forecast.
        interval: seconds between two writes.

    Attributes:
        trouble: how often it could not be written, and why.
    """

    def __init__(self, path: Path, observe: Callable[[], Mapping[str, Any]], interval: float = 5.0) -> None:
        self.path = path
        self.state = "starting"
        self._observe = observe
        self._interval = interval
        self._heartbeat = 0
        self._restarts = 0
        self._ended_before: list[Mapping[str, Any]] = []
        self.trouble = WriteTrouble(path)
        self._why: dict[str, str] = {}
        self._vitals, self._forecast = Vitals(), Forecast(path.parent)
        self._began = datetime.now().astimezone().isoformat(timespec="seconds")
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="expkit-status", daemon=True)

    def start(self, restarts: int = 0, ended_before: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write the file for the first time and begin the heartbeat.

        Args:
            restarts: how often the run has been gone on with.
            ended_before: how it ended each time, the newest last; of very many only these are kept.
        """
        self._restarts = restarts
        self._ended_before = list(ended_before)[-_ENDINGS:]
        self.write()
        self._thread.start()

    def set(self, state: str) -> None:
        """Change the state (starting, running, finished, failed, preempted, interrupted) and write at once.

        With it goes the reason: of `failed` the exception that is being handled, of `preempted` and `interrupted` the
        signal that this process has received.
        """
        self.state = state
        error, number = sys.exception(), received_signal()
        if state == "failed" and error is not None:
            self._why = {"error": mask_text(describe(error))}
        elif state in ("preempted", "interrupted") and number is not None:
            self._why |= {"signal": number.name}
        self.write()

    def add_reason(self, **fields: str) -> None:
        """Say more of why the run has ended, when it is written next; what is empty is left out."""
        self._why |= {name: text for name, text in fields.items() if text}

    def stop(self, state: str) -> None:
        """End the heartbeat and leave `state` behind."""
        self._stop.set()
        try:
            if self._thread.is_alive():
                self._thread.join(timeout=5)
        finally:  # torch's handler of SIGCHLD may raise just here that a loading process was killed: why it failed
            self.set(state)

    def write(self) -> None:
        """Write the file now. A disk that refuses is said once, and once more when it works again."""
        with self._lock:
            self._heartbeat += 1
            observed = dict(self._observe())
            if self.state == "running":
                observed["forecast"] = self._forecast.take(observed.get("step"), observed.get("total_steps"))
            content = {
                "state": self.state,
                **self._why,
                **observed,
                "heartbeat": self._heartbeat,
                "heartbeat_time": time.time(),
                "started": self._began,
                "pid": os.getpid(),
                "host": platform.node(),
                "machine": self._vitals.read(),
                "slurm": slurm_ids(),
                "restarts": self._restarts,
                "ended_before": self._ended_before,
            }
            try:
                write_json(self.path, content, durable=False)
            except OSError as error:
                self.trouble.failed(error)
            else:
                self.trouble.worked()

    def _beat(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.write()
            except Exception as error:  # noqa: BLE001 - a run whose heartbeat ends counts as dead
                self.trouble.failed(error)
