"""One diagnostic with its interval: when it is due, and what it costs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from expkit.diagnostics.base import Diagnostic
from expkit.diagnostics.budget import Cost
from expkit.errors import ConfigError
from expkit.schedule import Every, Progress

if TYPE_CHECKING:
    import torch

__all__ = ["Scheduled"]


class Scheduled:
    """A diagnostic, its name and its interval.

    Args:
        name: what it is called in the configuration.
        diagnostic: asked when it is due.
        log_interval: steps, what "log" stands for.

    Attributes:
        cost: of the calls since the interval is what it is.
        pending: seconds on the CPU since `take_time`.

    Raises:
        ConfigError: an interval that cannot be.
    """

    def __init__(self, name: str, diagnostic: Diagnostic, log_interval: int) -> None:
        self.name, self.diagnostic = name, diagnostic
        interval = diagnostic.interval
        number = isinstance(interval, int) and not isinstance(interval, bool) and interval > 0
        if not number and interval not in ("log", "epoch"):
            raise ConfigError(f"diagnostics.{name}.interval={interval}: a number of steps, or log, or epoch")
        self.steps = None if interval == "epoch" else log_interval if interval == "log" else int(interval)
        self._with_log = interval == "log"
        self.looks = overrides(diagnostic, "before_update")
        self.cost = Cost()
        self.pending = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._stretch = 1
        self.stretch = 1

    @property
    def stretch(self) -> int:
        """How many times the configured interval it takes."""
        return self._stretch

    @stretch.setter
    def stretch(self, times: int) -> None:
        self._stretch = times
        self._every = Every(epochs=times) if self.steps is None else Every(steps=self.steps * times)
        self.cost.clear()

    def __str__(self) -> str:
        return _said(self.steps, self._stretch)

    def is_due(self, ahead: Progress, last: bool) -> bool:
        """Whether it is to be measured at `ahead`, where the run ends if it is the `last`."""
        if self._with_log and self._stretch == 1 and (ahead.epoch_ended or last):
            return True  # there is a record of training metrics then
        return self._every.due(ahead) or (last and self.steps is None)

    def never_due(self, total_steps: int) -> bool:
        """Whether a run of `total_steps` ends before it is due."""
        return self.steps is not None and not self._with_log and self.steps * self._stretch > total_steps

    def turn(self, step: int, due: bool) -> tuple[int, int] | None:
        """Return which part of how many it does before the update that is number `step`, or None for nothing."""
        if not self.looks:
            return None
        if self.diagnostic.spread and self.steps is not None:
            parts = self.steps * self._stretch
            return (step - 1) % parts, parts
        return (0, 1) if due else None

    @contextlib.contextmanager
    def timed(self, device: torch.device | None) -> Iterator[None]:
        """Count what happens in this context as its time. On a GPU the device's time, without waiting for it."""
        if device is not None and device.type == "cuda":
            import torch

            with torch.cuda.device(device):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                begin.record()
                try:
                    yield
                finally:
                    end.record()
                    self._events.append((begin, end))
            return
        began = time.perf_counter()
        try:
            yield
        finally:
            self.pending += time.perf_counter() - began

    def take_time(self) -> float:
        """Return the seconds counted since the last time, waiting for the device if it has not done all of it."""
        took, self.pending = self.pending, 0.0
        for begin, end in self._events:
            end.synchronize()
            took += begin.elapsed_time(end) / 1000
        self._events.clear()
        return took


def overrides(diagnostic: Diagnostic, method: str) -> bool:
    """Whether `diagnostic` has a `method` of its own."""
    own: Any = getattr(type(diagnostic), method)
    return own is not getattr(Diagnostic, method)


def _said(steps: int | None, times: int) -> str:
    number = times if steps is None else steps * times
    unit = "epoch" if steps is None else "step"
    return f"every {unit}" if number == 1 else f"every {number} {unit}s"
