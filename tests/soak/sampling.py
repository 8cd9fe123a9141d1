"""Memory, file descriptors and threads of the soak's processes, every few seconds, and whether they grow."""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.soak.place import Place
from tests.soak.training import Training

__all__ = ["Sample", "Sampler", "Slope", "role", "slope"]

_EVERY = 2.0  # seconds
#: Means of so many parts of the time make the line: neighbouring samples know too much of each other.
_PARTS = 20


class Sample(NamedTuple):
    """A look at a process: seconds on the monotonic clock, MB (10^6 bytes) that are its own, descriptors, threads."""

    time: float
    megabytes: float
    descriptors: int
    threads: int


def role(process: psutil.Process) -> str:
    """Return what a process of the training is there for; "" if that is not known, or it is gone."""
    with contextlib.suppress(psutil.Error):
        command = " ".join(process.cmdline())
        if "wandb-core" in command:
            return "wandb"
        if "wandb-symon" in command:
            return "wandb's sampler"
        if "expkit.plots.worker" in command:
            return "pictures"
        if "expkit watch" in command:
            return "watcher"
        if process.name() == "pt_data_worker":  # as torch calls it, whoever its parent is by now
            return "loader"
        if "-m train" in command:
            parent = process.parent()
            return "loader" if parent is not None and "-m train" in " ".join(parent.cmdline()) else "training"
    return ""


class Sampler:
    """Looks at all processes of a soak from a thread.

    Attributes:
        seen: (number of the attempt, role, pid) -> samples, the oldest first.
    """

    def __init__(self, place: Place, training: Training) -> None:
        self._place, self._training = place, training
        self.seen: dict[tuple[int, str, int], list[Sample]] = defaultdict(list)
        self._roles: dict[psutil.Process, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(_EVERY):
            number = len(self._training.attempts) - 1
            for process in self._place.processes():
                if not self._roles.get(process):
                    self._roles[process] = role(process)
                with contextlib.suppress(OSError, KeyError, ValueError):
                    self.seen[number, self._roles[process] or "other", process.pid].append(_look(process.pid))


def _look(pid: int) -> Sample:
    folder = Path("/proc") / str(pid)
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    # Pages of files come and go as the system likes; these are what the process has taken.
    own = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))
    descriptors = sum(1 for _ in (folder / "fd").iterdir())
    return Sample(time.monotonic(), own * 1024 / 1e6, descriptors, int(fields["Threads"]))


@dataclass(frozen=True)
class Slope:
    """A straight line through values: by how much they grow in an hour, and the standard error of that."""

    per_hour: float
    error: float

    def is_flat(self, bound: float) -> bool:
        """Whether it is no growth: within two standard errors of none, or below `bound` an hour."""
        return self.per_hour <= max(bound, 2 * self.error)


def slope(times: Sequence[float], values: Sequence[float], parts: int = _PARTS) -> Slope | None:
    """Return the line of least squares through the means of `parts` equal parts of the time; None for too few values.

    Args:
        times: in seconds, increasing.
        values: at these times.
    """
    if len(times) < 2 * parts:
        return None
    size = len(times) // parts
    groups = [slice(number * size, (number + 1) * size) for number in range(parts)]
    x = [statistics.fmean(times[each]) / 3600 for each in groups]
    y = [statistics.fmean(values[each]) for each in groups]
    line = statistics.linear_regression(x, y)
    left = sum((b - line.slope * a - line.intercept) ** 2 for a, b in zip(x, y, strict=True))
    spread = sum((a - statistics.fmean(x)) ** 2 for a in x)
    return Slope(line.slope, math.sqrt(left / (parts - 2) / spread))
