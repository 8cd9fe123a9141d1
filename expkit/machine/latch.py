"""What fails is left alone for a while, and then tried again: one sick sensor costs neither the others nor time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

__all__ = ["Latch"]

T = TypeVar("T")

_PAUSE = 60.0


class Latch:
    """Makes calls that may fail, and not again for a while if they have.

    Args:
        pause: seconds before a call that failed is tried again.
        clock: returns seconds.
    """

    def __init__(self, pause: float = _PAUSE, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._clock = clock
        self._again: dict[Hashable, float] = {}
        self._said: set[tuple[Hashable, str]] = set()
        self._news: dict[Hashable, Exception] = {}

    def attempt(self, name: Hashable, call: Callable[[], T]) -> T | None:
        """Return what `call` returns; None if it raises, or has raised less than a pause ago under that `name`."""
        now = self._clock()
        if now < self._again.get(name, -math.inf):
            return None
        try:
            value = call()
        except Exception as error:  # noqa: BLE001 - whatever a driver or its bindings raise: a metric is missing
            self._again[name] = now + self._pause
            if (name, str(error)) not in self._said:
                self._said.add((name, str(error)))
                self._news[name] = error
            return None
        self._again.pop(name, None)
        return value

    def news(self) -> dict[Hashable, Exception]:
        """Return name -> error of what has failed since the last call for a reason that was not told before."""
        news, self._news = self._news, {}
        return news
