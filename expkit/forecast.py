"""When a run ends, how often its job must still be requeued, and when its disk is full: from its heartbeats alone."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from expkit.environment import slurm_ids
from expkit.files import free_gb
from expkit.timelimit import job_span

__all__ = ["Forecast", "fall", "folder_gb", "forecast_text"]

log = logging.getLogger("expkit")

_GB = 1024**3
_HOUR = 3600.0
_DAY = 24 * _HOUR

#: Seconds of wall time over which steps are counted: evaluation and saving belong to it.
_RATE_WINDOW = 1800.0
#: Seconds that have to be seen before anything is said.
_RATE_LEAST = 10.0
#: Seconds over which the disk is watched, and between two looks at it, at the run's own files, and at the job's end.
_DISK_WINDOW = _HOUR
_DISK_EVERY = 15.0
_SIZE_EVERY = 60.0
_ASK_EVERY = 600.0
#: A watch of less than the whole window says nothing about more than so many times its length.
_AHEAD = 24.0
#: Values that a slope needs, and how many standard errors it must be away from 0.
_LEAST = 8
_ERRORS = 3.0
#: A run directory with more files than this is not measured.
_MOST_FILES = 10_000


class Forecast:
    """Sees each heartbeat of a run and says what is to come. One thread at a time may call it.

    Args:
        folder: the run directory.
        free: returns the GB (1024^3 bytes) that are free there; size: those that the run's files take.
        job: returns when the SLURM job began and when it ends, in seconds since 1970, as far as is known. It may take
            its time: it is called in a thread.
        clock, wall: return seconds, for tests: of a clock that never jumps, and since 1970.
    """

    def __init__(
        self,
        folder: Path,
        free: Callable[[Path], float] = free_gb,
        size: Callable[[Path], float | None] | None = None,
        job: Callable[[], tuple[float | None, float | None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._free, self._size = folder, free, size or folder_gb
        self._clock, self._wall = clock, wall
        self._steps: deque[tuple[float, int]] = deque()
        self._advanced = False
        self._disk: deque[tuple[float, float]] = deque()
        self._sizes: deque[tuple[float, float]] = deque()
        self._measured = -math.inf
        self._job = job or (job_span if "job_id" in slurm_ids() else None)
        self._span: tuple[float | None, float | None] = (None, None)
        self._asked = -math.inf
        self._warned = False

    def take(self, step: Any, total: Any) -> dict[str, Any]:
        """Take note of a heartbeat, and return what can be said.

        Args:
            step: the last one that is done; None before there is any.
            total: after how many the run ends, or None if that is not known.

        Returns:
            steps_per_sec, remaining_seconds, end_time (seconds since 1970); with a SLURM job's limit job_end_time,
            job_seconds and requeues; disk_full_seconds, disk_free_gb, disk_falls_gb_per_hour and, if it could be
            measured, run_grows_gb_per_hour. What is not known is left out.
        """
        now = self._clock()
        self._ask(now)
        said: dict[str, Any] = {}
        rate = self._rate(now, step) if isinstance(step, int) else None
        remaining = None
        if rate and isinstance(total, int):
            remaining = max(total - step, 0) / rate
            said = {"remaining_seconds": round(remaining, 1), "end_time": round(self._wall() + remaining, 1)}
            said |= self._requeues(remaining)
        if rate:
            said["steps_per_sec"] = float(f"{rate:.4g}")
        with contextlib.suppress(OSError):  # a disk that cannot be asked: the status file has its own troubles to tell
            self._look(now)
        return said | self._full(now, remaining, end_known=isinstance(total, int))

    def _rate(self, now: float, step: int) -> float | None:
        """Return the steps per second of wall time, from the first heartbeat that saw one done."""
        if self._steps and step < self._steps[-1][1]:
            self._steps.clear()
            self._advanced = False
        if not self._advanced:
            self._advanced = bool(self._steps) and step > self._steps[0][1]
            self._steps.clear()
        self._steps.append((now, step))
        while len(self._steps) > 2 and self._steps[1][0] <= now - _RATE_WINDOW:
            self._steps.popleft()
        began, first = self._steps[0]
        return (step - first) / (now - began) if now - began >= _RATE_LEAST and step > first else None

    def _ask(self, now: float) -> None:
        if self._job is None or now - self._asked < _ASK_EVERY:
            return
        self._asked = now
        threading.Thread(target=self._learn, name="expkit-job-end", daemon=True).start()

    def _learn(self) -> None:
        assert self._job is not None
        self._span = self._job()

    def _requeues(self, remaining: float) -> dict[str, Any]:
        """Return how many more times the job must run after this time, if its limit is known."""
        start, end = self._span
        if start is None or end is None or end <= start:
            return {}
        beyond = remaining - max(end - self._wall(), 0.0)
        return {
            "job_end_time": end,
            "job_seconds": end - start,
            "requeues": math.ceil(beyond / (end - start)) if beyond > 0 else 0,
        }

    def _look(self, now: float) -> None:
        """Look at the disk and at the run's files, now and then."""
        if not self._disk or now - self._disk[-1][0] >= _DISK_EVERY:
            self._disk.append((now, self._free(self._folder)))
            _forget(self._disk, now)
        if now - self._measured >= _SIZE_EVERY:
            self._measured = now
            size = self._size(self._folder)
            if size is None:
                self._measured = math.inf  # too many files: never again
            else:
                self._sizes.append((now, size))
                _forget(self._sizes, now)

    def _full(self, now: float, remaining: float | None, end_known: bool) -> dict[str, Any]:
        """Return when the disk is full, if that matters; warn once if it is before the end, or nobody knows the end."""
        falls = fall(self._disk)
        if falls is None:
            return {}
        free, watched = self._disk[-1][1], now - self._disk[0][0]
        seconds = free / falls
        if seconds >= max(remaining or 0.0, _DAY):
            return {}
        if watched < _DISK_WINDOW - 2 * _DISK_EVERY and seconds > _AHEAD * watched:
            return {}
        said = {
            "disk_full_seconds": round(seconds, 1),
            "disk_free_gb": round(free, 3),
            "disk_falls_gb_per_hour": float(f"{falls * _HOUR:.4g}"),
        }
        if len(self._sizes) > 1:
            (began, first), (ended, last) = self._sizes[0], self._sizes[-1]
            said["run_grows_gb_per_hour"] = float(f"{(last - first) / (ended - began) * _HOUR:.4g}")
        if not self._warned and (not end_known if remaining is None else seconds < remaining):
            self._warned = True
            until = "" if remaining is None else f", before the run ends (in {_span(remaining)})"
            what = "free some space, or keep fewer checkpoints"
            log.warning("%s: the %s%s; %s", self._folder, _disk_text(said), until, what)
        return said


def fall(samples: Sequence[tuple[float, float]]) -> float | None:
    """Return by how much a second the values fall, as a straight line through them does (least squares).

    None if they do not, or not significantly: the slope must be 3 standard errors below 0, and each third of the time
    must end lower than it began, so that one large file is no trend.

    Args:
        samples: (seconds, value), in the order of time.
    """
    number = len(samples)
    if number < _LEAST:
        return None
    marks = [samples[third * (number - 1) // 3][1] for third in range(4)]
    if not marks[0] > marks[1] > marks[2] > marks[3]:
        return None
    mean_time = math.fsum(time for time, _ in samples) / number
    mean = math.fsum(value for _, value in samples) / number
    spread = math.fsum((time - mean_time) ** 2 for time, _ in samples)
    slope = math.fsum((time - mean_time) * (value - mean) for time, value in samples) / spread
    rest = math.fsum((value - mean - slope * (time - mean_time)) ** 2 for time, value in samples)
    error = math.sqrt(rest / (number - 2) / spread)
    return -slope if -slope > _ERRORS * error else None


def folder_gb(folder: Path) -> float | None:
    """Return the GB (1024^3 bytes) that a folder's files take on the disk, each hard-linked one once.

    None if there are too many to look at now and then.
    """
    sizes: dict[tuple[int, int], int] = {}
    folders = [os.fspath(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:  # files come and go
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                found = entry.stat(follow_symlinks=False)
                sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
                if len(sizes) > _MOST_FILES:
                    return None
    return sum(sizes.values()) / _GB


def forecast_text(forecast: Mapping[str, Any], now: float | None = None) -> str:
    """Return the `forecast` of a status.json in one line, "" if it says nothing.

    Args:
        forecast: what `Forecast.take` returned.
        now: seconds since 1970, for tests.
    """
    known = {name: value for name, value in forecast.items() if isinstance(value, int | float)}
    said = []
    if "end_time" in known:
        left = max(0.0, known["end_time"] - (time.time() if now is None else now))
        requeues = known.get("requeues")
        waits = ", without the time between jobs" if requeues else ""
        said.append(f"ends in {_span(left)}{waits}, at {datetime.fromtimestamp(known['end_time']):%Y-%m-%d %H:%M}")
        if requeues is not None:
            count = {0: "no requeue", 1: "1 requeue"}.get(int(requeues), f"{requeues:.0f} requeues")
            said.append(f"{count} needed")
    if {"disk_full_seconds", "disk_free_gb", "disk_falls_gb_per_hour"} <= known.keys():
        said.append(_disk_text(known))
    return "; ".join(said)


def _disk_text(known: Mapping[str, float]) -> str:
    grows = known.get("run_grows_gb_per_hour")
    own = "" if grows is None else f", {max(grows, 0.0):.3g} of it by this run"
    free, falls = known["disk_free_gb"], known["disk_falls_gb_per_hour"]
    return f"disk is full in {_span(known['disk_full_seconds'])} ({free:.3g} GB free, {falls:.3g} GB/h less{own})"


def _span(seconds: float) -> str:
    """Return a time in h, or in min below one and a half hours."""
    minutes = seconds / 60
    if minutes < 1:
        return "less than 1 min"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _forget(samples: deque[tuple[float, float]], now: float) -> None:
    while samples[0][0] < now - _DISK_WINDOW:
        samples.popleft()
