"""What detectors that hold a value against a window of those before it have in common."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from expkit.detectors._settings import whole
from expkit.detectors.base import Event
from expkit.detectors.metric import MetricDetector, guarded
from expkit.errors import ConfigError
from expkit.guards import LimitGuard
from expkit.record import Record

__all__ = ["LASTING", "WindowDetector"]

#: So many alarmed values in a row are no spike, but where the metric is now: the window begins anew with them. Without
#: that a rise that stays would be alarmed for ever, and a guard would never let an update through again.
LASTING = 128


class WindowDetector(MetricDetector):
    """Base class of what has a window of accepted values, and a limit that follows from it.

    A value beyond the limit is alarmed, said or not, and stays out of the window.

    Args:
        metric, warmup, cooldown, respond: see `MetricDetector`.
        window: accepted values that are kept.
        least: accepted values without which there is no limit.

    Raises:
        ConfigError: a value that cannot be.
    """

    every_step = True

    def __init__(
        self, metric: str | None, warmup: int, cooldown: int, respond: Sequence[str], window: int, least: int
    ) -> None:
        super().__init__(metric, warmup, cooldown, respond)
        if least > whole(f"detectors.{self.option}.window", window, 1):
            raise ConfigError(f"detectors.{self.option}.window={window}: it is to hold at least {least} values")
        self._least = least
        self._window: deque[float] = deque(maxlen=int(window))
        self._outside: list[float] = []  # values alarmed in a row
        self._guard: LimitGuard | None = None

    def guard(self) -> LimitGuard | None:
        if self._guard is None and self.can_skip:
            on = guarded(self._candidates[0])
            if on is not None:
                self._guard = LimitGuard(on)
        return self._guard

    def observe(self, record: Record) -> list[Event]:
        events = super().observe(record)
        if self._guard is not None:
            limit = None if record.step + 1 <= self.warmup else self._limit(record.step + 1)
            self._guard.set_limit(math.inf if limit is None else limit)
        return events

    def _take(self, step: int, value: float) -> Event | None:
        limit: float | None = None
        if self._guard is not None:
            limit = self._guard.limit  # for all steps of a record: what it has skipped is what is alarmed
        elif not self._ordinary(step, value):
            limit = self._limit(step)
        if limit is None or not self._beyond(value, limit):
            self._outside.clear()
            self._accept(value)
            return None
        event = None if self._silent(step) else self._alarm(step, value)
        self._outside.append(value)
        if len(self._outside) == LASTING:
            self._restart(self._outside)
            self._outside.clear()
        return event

    def _ordinary(self, step: int, value: float) -> bool:  # noqa: ARG002
        """Whether it is known without computing the limit that `value` is not beyond it."""
        return False

    def _limit(self, step: int) -> float | None:
        """Return the limit that follows from the window, or None if there is none."""
        return self._bound(step) if len(self._window) >= self._least else None

    def _bound(self, step: int) -> float | None:
        """Return the limit; the window holds enough values."""
        raise NotImplementedError

    def _beyond(self, value: float, limit: float) -> bool:
        return value > limit

    def _alarm(self, step: int, value: float) -> Event:
        """Return the event of an alarmed value."""
        raise NotImplementedError

    def _accept(self, value: float) -> None:
        self._window.append(value)

    def _mean(self, recent: int) -> float:
        """Return the mean of the newest values of the window, so many of them."""
        return sum(islice(reversed(self._window), recent)) / recent

    def _restart(self, values: Iterable[float]) -> None:
        """Make the window hold these values, as many as it can."""
        self._window.clear()
        for value in values:
            self._accept(value)

    def _memory(self) -> dict[str, Any]:
        return {"window": list(self._window), "outside": list(self._outside)}

    def _recall(self, state: Mapping[str, Any]) -> None:
        self._restart(state.get("window", ()))
        self._outside = list(state.get("outside", ()))
