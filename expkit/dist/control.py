"""What all ranks must do together, at the same step."""

from __future__ import annotations

import time
from collections import deque

from expkit.dist.ranks import Dist

__all__ = ["Control"]


class Control:
    """What all ranks must do at the same step: a bitmask, OR-reduced every `interval` steps.

    `interval` is about one second of steps, chosen by rank 0 from the speed that it sees: an exchange at every step
    would cost a millisecond each. With one process a request is seen at the next step boundary.

    Attributes:
        elapsed: seconds since the run (with what came before a resume) began, as all ranks agree on.
    """

    SAVE = 1
    STOP = 2
    DIAGNOSTICS = 4
    RESPOND = 8
    REWIND = 16
    PLOT = 32

    def __init__(self, dist: Dist | None = None, elapsed: float = 0.0) -> None:
        self.dist = dist or Dist()
        self.elapsed = elapsed
        self._began = time.monotonic() - elapsed
        self._requested: deque[int] = deque()
        self._interval = 1
        self._next = 0

    def request(self, action: int) -> None:
        """Ask all ranks for `action`. Safe in a signal handler, and in any thread."""
        self._requested.append(action)

    @property
    def is_asked(self) -> bool:
        """Whether this process has asked for something that was not done yet."""
        return bool(self._requested)

    def hasten(self) -> None:
        """Let the next `poll` look at what was asked for. Called by all ranks after the same step."""
        self._next = 0

    def go_on_from(self, elapsed: float) -> None:
        """Count `elapsed` seconds, of the run before a resume, as passed already."""
        self.elapsed = elapsed
        self._began = time.monotonic() - elapsed

    def now(self) -> float:
        """Return the seconds of the run by this process's own clock."""
        return time.monotonic() - self._began

    def poll(self, step: int) -> int:
        """Return what to do now, the same on all ranks when called by all after the same `step`."""
        if step < self._next and (self.dist.world_size > 1 or not self._requested):
            return 0
        mine = 0
        while self._requested:
            mine |= self._requested.popleft()
        now = self.now()
        if self.dist.world_size == 1:
            actions = mine
        else:
            actions = self.dist.any_bits(mine)
            now = self.dist.broadcast(now)
        self._schedule(step, now)
        return actions

    def _schedule(self, step: int, now: float) -> None:
        # Every rank computes the same interval, from rank 0's clock. It at most doubles each time, so that a first
        # estimate from very fast steps does not silence the ranks for minutes; capped for the same reason.
        passed = now - self.elapsed
        speed = self._interval / passed if passed > 0 else float(self._interval)
        self._interval = max(1, min(2 * self._interval, int(speed), 1000))
        self.elapsed = now
        self._next = step + self._interval
