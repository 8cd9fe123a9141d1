"""A loss that goes on rising."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from expkit.detectors._settings import number, whole
from expkit.detectors.base import Event, Severity
from expkit.detectors.metric import MetricDetector
from expkit.record import Record

__all__ = ["Divergence"]


class Divergence(MetricDetector):
    """Alarms where at least `share` of the last `window` losses are above the one before them.

    And, if that is wanted, where the training loss stays far above its very first value: a loss that fluctuates high
    above where it began falls as often as it rises. Not the validation loss: overfitting is no divergence.

    Args:
        metric: what is watched, at each record; None: the first of val_loss, train_loss, loss that is there.
        window: losses that are looked at.
        share: of them that must be rising.
        min_rise: by how much of itself the loss must have risen in all, 0.1 for 10 %: noise on a flat curve rises 7
            times in 8 now and then. 0: not at all.
        max_ratio: the training loss (or `metric`) is not to be more than so many times its first value, that of the
            first step or of the first record, at `window` records in a row; None: it may.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = kind = "divergence"
    names = ("val_loss", "train_loss", "loss")

    def __init__(
        self,
        *,
        metric: str | None = None,
        window: int = 8,
        share: float = 0.8,
        min_rise: float = 0.0,
        max_ratio: float | None = None,
        warmup: int = 0,
        cooldown: int = 500,
        respond: Sequence[str] = ("snapshot", "alert"),
    ) -> None:
        super().__init__(metric, warmup, cooldown, respond)
        self._size = whole("detectors.divergence.window", window, 2)
        self._share = number("detectors.divergence.share", share, above=0.0)
        self._min_rise = number("detectors.divergence.min_rise", min_rise, at_least=0.0)
        self._max_ratio = None if max_ratio is None else number("detectors.divergence.max_ratio", max_ratio, above=1.0)
        self._first: float | None = None  # training loss
        self._above = 0  # records in a row
        self._losses: deque[float] = deque(maxlen=self._size + 1)  # one more: what the oldest is compared with

    def observe(self, record: Record) -> list[Event]:
        events = super().observe(record)
        above = self._take_above(record) if self._max_ratio is not None else None
        return [*events, above] if above is not None and not events else events

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "first": self._first, "above": self._above}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._first, self._above = state.get("first"), state.get("above", 0)

    def _take(self, step: int, value: float) -> Event | None:
        self._losses.append(value)
        if len(self._losses) < self._size or self._silent(step):
            return None
        rising = sum(after > before for before, after in pairwise(self._losses))
        first = self._losses[0]
        if rising < self._share * self._size or value - first < self._min_rise * abs(first):
            return None
        message = f"{self._watched} is rising: {rising} of the last {self._size}, from {first:.4g} to {value:.4g}"
        values = {"value": value, "first": first, "rising": rising, "window": self._size}
        return self._event(Severity.CRITICAL, step, message, values, "divergence_detected")

    def _take_above(self, record: Record) -> Event | None:
        names = [name for name in self._candidates if name != "val_loss" or self.metric is not None]
        name = next((name for name in names if name in record.metrics), None)
        value = math.nan if name is None else record.metrics[name]
        if not math.isfinite(value):
            return None
        if self._first is None:
            steps = record.series.get(str(name), ())[:1]
            self._first = max([value, *filter(math.isfinite, steps)])  # one step alone may be low by chance
        first, ratio = self._first, self._max_ratio or math.inf
        self._above = self._above + 1 if value > ratio * first > 0 else 0
        if self._above < self._size or self._silent(record.step):
            return None
        message = f"{name} stays above {ratio:g} times its first value, {first:.4g}: {self._above} records, {value:.4g}"
        values = {"value": value, "first": first, "above": self._above}
        return self._event(Severity.CRITICAL, record.step, message, values, "divergence_detected")

    def _memory(self) -> dict[str, Any]:
        return {"losses": list(self._losses)}

    def _recall(self, state: Mapping[str, Any]) -> None:
        self._losses.clear()
        self._losses.extend(state.get("losses", ()))
