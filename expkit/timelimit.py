"""When a SLURM job ends, and the moment before it in which there is time to save. It works in anybody's loop."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import datetime

from expkit.environment import job_name, slurm_ids
from expkit.errors import UserError

__all__ = ["TimeLimit", "duration", "job_end", "job_span"]

log = logging.getLogger("expkit")

#: Seconds: a limit may be extended, so it is asked for again this long before it matters, and this often.
_LAST_MINUTES = 300.0
_AGAIN = 60.0

#: Seconds to wait for `squeue`: a busy controller takes its time.
_PATIENCE = 10.0

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|min|m|h)?")
_UNITS = {None: 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}


class TimeLimit:
    """Says once, some time before the end of this SLURM job, that it is time to save.

    `due` costs nothing: a thread asks for the end of the job, again in its last minutes. Outside SLURM, or where the
    end is not known, it is never due. In a loop of one's own:

        limit = TimeLimit(before=120)
        for step in ...:
            if limit.due():
                save()

    Args:
        before: how long before the end, in seconds or as a text (`120s`, `2min`, `1h`).
        on_due: called in the thread when it is due: it may only set flags.

    Raises:
        UserError: `before` is no duration.
    """

    def __init__(self, before: float | str = 120, on_due: Callable[[], object] = lambda: None) -> None:
        self.before = duration(before)
        self._on_due = on_due
        self._reached = threading.Event()
        self._closed = threading.Event()
        self._job = slurm_ids()
        if "job_id" in self._job:
            threading.Thread(target=self._watch, name="expkit-timelimit", daemon=True).start()

    def __enter__(self) -> TimeLimit:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def due(self) -> bool:
        """Whether it is time to save: True once, and once more if the limit has been extended since."""
        if not self._reached.is_set():
            return False
        self._reached.clear()
        return True

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        end = job_end(self._job)
        if end is None:
            log.debug("the end of SLURM job %s is not known: no checkpoint is saved before it", self._job["job_id"])
            return
        said = -math.inf
        while not self._closed.wait(self._pause(end, said)):
            end = _asked(self._job) or end
            if end > said + _AGAIN and time.time() >= end - self.before:
                said = end
                self._say(end)

    def _pause(self, end: float, said: float) -> float:
        """Return how many seconds to wait before asking again."""
        left = end - self.before - time.time()
        if left > _LAST_MINUTES:
            return left - _LAST_MINUTES
        return _AGAIN if end <= said + _AGAIN else min(max(left, 0.0), _AGAIN)

    def _say(self, end: float) -> None:
        log.info(
            "SLURM job %s ends in %.0f s, at %s: a checkpoint is saved now, and training goes on",
            self._job["job_id"],
            max(0.0, end - time.time()),
            f"{datetime.fromtimestamp(end):%H:%M:%S}",
        )
        self._reached.set()
        self._on_due()


def job_end(job: dict[str, str] | None = None) -> float | None:
    """Return when a SLURM job ends, in seconds since 1970, or None if that cannot be known.

    Args:
        job: its ids as `expkit.environment.slurm_ids` gives them; this process's own by default.
    """
    return _moment("SLURM_JOB_END_TIME") or _asked(slurm_ids() if job is None else job)


def job_span(job: dict[str, str] | None = None) -> tuple[float | None, float | None]:
    """Return when a SLURM job began and when it ends, in seconds since 1970, each None if that cannot be known.

    The controller is asked first, since a limit may be extended; then the environment.

    Args:
        job: its ids as `expkit.environment.slurm_ids` gives them; this process's own by default.
    """
    job = slurm_ids() if job is None else job
    start = _moment("SLURM_JOB_START_TIME")
    return _asked(job, "%S") if start is None else start, _asked(job) or _moment("SLURM_JOB_END_TIME")


def _moment(variable: str) -> float | None:
    with contextlib.suppress(ValueError):
        moment = float(os.environ.get(variable, ""))
        if 0 < moment < math.inf:
            return moment
    return None


def _asked(job: dict[str, str], field: str = "%e") -> float | None:
    """Ask the controller for a time, by default that of the end."""
    name = job_name(job)
    if name is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            ["squeue", "-h", "-j", name, "-o", field],  # noqa: S607 - squeue is wherever the cluster has it
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    moments = []
    for line in done.stdout.split():
        with contextlib.suppress(ValueError, OverflowError, OSError):  # N/A, NONE
            moments.append(datetime.fromisoformat(line).timestamp())
    return min(moments, default=None)


def duration(text: float | str) -> float:
    """Return the seconds that `text` stands for: a number of them, "120s", "2min" or "1h".

    Raises:
        UserError: it is none of these, or not more than 0.
    """
    found = _DURATION.fullmatch(str(text).strip().lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found and not isinstance(text, bool) else 0.0
    if not 0 < seconds < math.inf:
        raise UserError(f"before_timeout={text}: it must be a time of more than 0: seconds, 120s, 2min or 1h")
    return seconds
