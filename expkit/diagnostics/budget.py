"""What diagnostics cost, and how long their intervals must be for all of them to stay within a share of the time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

__all__ = ["Cost", "stretches"]

_REMEMBERED = 8
#: Of the share that there is, so much is planned with: the next calls may take a little longer.
_PLANNED = 0.9


class Cost:
    """What the last calls of one diagnostic took, and how much training there was between them."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)

    def add(self, seconds: float, passed: float) -> None:
        """Note a call of `seconds`, with `passed` seconds of training since the one before."""
        self._calls.append((seconds, passed))

    def clear(self) -> None:
        """Forget all calls: the interval is another one now."""
        self._calls.clear()

    @property
    def ratio(self) -> float | None:
        """Seconds measured for each second trained; None before the second call.

        The slowest call does not count: a first one that loads a library says nothing about the next.
        """
        if len(self._calls) < 2:
            return None
        took, passed = zip(*self._calls, strict=True)
        usual = (sum(took) - max(took)) / (len(took) - 1)
        return float(usual / max(sum(passed) / len(passed), 1e-9))


def stretches(ratios: Mapping[str, float], share: float) -> dict[str, float]:
    """Return by how much to lengthen intervals, for all diagnostics together to take `share` of the time.

    Those that take little keep their interval; the dear ones share what is left evenly ("water filling").

    Args:
        ratios: name -> seconds measured for each second trained.
        share: of all the time, measuring included; above 0, below 1.

    Returns:
        name -> factor above 1, of those whose interval is too short. Nothing if all fit.
    """
    available = share / (1 - share)
    if sum(ratios.values()) <= available:
        return {}
    left = _PLANNED * available
    waiting = sorted(ratios.items(), key=lambda item: item[1])
    for place, (_, ratio) in enumerate(waiting):
        level = left / (len(waiting) - place)
        if ratio > level:
            return {name: ratio / level for name, ratio in waiting[place:] if not math.isclose(ratio, level)}
        left -= ratio
    return {}
