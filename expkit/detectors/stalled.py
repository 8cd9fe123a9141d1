"""No record for much longer than usual."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Any

from expkit.detectors._settings import number, whole
from expkit.detectors.base import RESPONSES, Detector, Event, Severity, checked_respond
from expkit.record import Record

__all__ = ["Stalled"]


class Stalled(Detector):
    """Says when the time between two records was more than `factor` times the usual one, the median of the last.

    The time over a resume does not count. Whoever watches from outside asks `overdue` as well, which does not wait for
    the record that may never come.

    Args:
        factor: how many times the usual interval.
        min_seconds: what is shorter is no stall: an evaluation, a checkpoint.
        window: intervals that the usual one is the median of.
        least: intervals without which nothing is said.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = kind = "stalled"

    def __init__(
        self,
        *,
        factor: float = 10.0,
        min_seconds: float = 60.0,
        window: int = 64,
        least: int = 5,
        warmup: int = 0,
        cooldown: int = 0,
        respond: Sequence[str] = ("alert",),
    ) -> None:
        self._factor = number("detectors.stalled.factor", factor, at_least=1.0)
        self._min_seconds = number("detectors.stalled.min_seconds", min_seconds, at_least=0.0)
        self._intervals: deque[float] = deque(maxlen=whole("detectors.stalled.window", window, 1))
        self._least = min(whole("detectors.stalled.least", least, 1), int(window))
        self.warmup = whole("detectors.stalled.warmup", warmup, 0)
        self.cooldown = whole("detectors.stalled.cooldown", cooldown, 0)
        self.respond = checked_respond(
            self.option, respond, [word for word in RESPONSES if word not in ("skip", "switch")]
        )
        self._outside: list[float] = []  # stalls in a row
        self._last: tuple[int, float] | None = None  # step and time of the last record
        self._said: int | None = None
        self._overdue = False  # whether the gap that is going on has been said

    def observe(self, record: Record) -> list[Event]:
        last, said = self._last, self._overdue
        self._last, self._overdue = (record.step, record.time), False
        if last is None:
            return []
        gap = record.time - last[1]
        if gap <= 0:  # the clock was set
            return []
        usual = self._exceeded(gap)
        if usual is None:
            self._intervals.append(gap)
            self._outside.clear()
            return []
        self._outside.append(gap)
        if len(self._outside) == self._least:  # no stall, but how it is from now on
            self._intervals.clear()
            self._intervals.extend(self._outside)
            self._outside.clear()
        if said or self._silent(record.step):
            return []
        message = f"{_shown(gap)} passed since the record of step {last[0]}, and {_shown(usual)} is usual"
        return [self._event(record.step, message, gap, usual)]

    def overdue(self, now: float) -> Event | None:
        """Return the event, once, if the next record is overdue.

        Args:
            now: seconds since 1970, by the clock that the records' times are of.
        """
        if self._last is None or self._overdue:
            return None
        step, time = self._last
        usual = self._exceeded(now - time)
        if usual is None or self._silent(step):
            return None
        self._overdue = True
        message = f"no record for {_shown(now - time)} since step {step}, and {_shown(usual)} is usual"
        return self._event(step, message, now - time, usual)

    def state_dict(self) -> dict[str, Any]:
        return {"intervals": list(self._intervals), "outside": list(self._outside), "said": self._said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._intervals.clear()
        self._intervals.extend(state["intervals"])
        self._outside, self._said = list(state["outside"]), state["said"]
        self._last, self._overdue = None, False

    def _exceeded(self, gap: float) -> float | None:
        """Return the usual interval if `gap` is a stall."""
        if gap <= self._min_seconds or len(self._intervals) < self._least:
            return None
        usual = median(self._intervals)
        return usual if gap > self._factor * usual else None

    def _silent(self, step: int) -> bool:
        return step <= self.warmup or (self._said is not None and step - self._said < self.cooldown)

    def _event(self, step: int, message: str, gap: float, usual: float) -> Event:
        self._said = step
        return Event(self.name, self.kind, Severity.WARNING, step, message, {"seconds": gap, "usual": usual})


def _shown(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
