"""A loss that goes on rising."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from expkit.detectors._settings import number, whole
from expkit.detectors.base import Event, Severity
from expkit.detectors.metric import MetricDetector

__all__ = ["Divergence"]


class Divergence(MetricDetector):
    """Alarms where at least `share` of the last `window` losses are above the one before them.

    Args:
        metric: what is watched, at each record; None: the first of val_loss, train_loss, loss that is there.
        window: losses that are looked at.
        share: of them that must be rising.
        min_rise: by how much of itself the loss must have risen in all, 0.1 for 10 %: noise on a flat curve rises 7
            times in 8 now and then. 0: not at all.
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
        warmup: int = 0,
        cooldown: int = 500,
        respond: Sequence[str] = ("snapshot", "alert"),
    ) -> None:
        super().__init__(metric, warmup, cooldown, respond)
        self._size = whole("detectors.divergence.window", window, 2)
        self._share = number("detectors.divergence.share", share, above=0.0)
        self._min_rise = number("detectors.divergence.min_rise", min_rise, at_least=0.0)
        self._losses: deque[float] = deque(maxlen=self._size + 1)  # one more: what the oldest is compared with

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

    def _memory(self) -> dict[str, Any]:
        return {"losses": list(self._losses)}

    def _recall(self, state: Mapping[str, Any]) -> None:
        self._losses.clear()
        self._losses.extend(state.get("losses", ()))
