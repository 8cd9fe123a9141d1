"""Where an axis has its numbers, and how they read. Pure Python: matplotlib's would cost 20 MB and half a second."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["linear_ticks", "log_ticks", "tick_labels"]

_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
_LONGEST = 9


def linear_ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Return at most so many round values from `low` to `high`, evenly spaced; one or none if the room is short.

    Args:
        low, high: the ends of the axis, low < high.
        most: how many there is room for, 1 or more.
        whole: whether only whole numbers count.
    """
    least = max((high - low) / max(most, 1), 1.0 if whole else 0.0)
    size = 10.0 ** math.floor(math.log10(least))
    steps = [factor * size for factor in _NICE if not whole or (factor * size).is_integer()]
    for step in [*steps, 20 * size]:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [number * step for number in range(first, last + 1)]
    return []


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most so many round values from `low` to `high` for a logarithmic axis: decades, with 2 and 5 between.

    Below one decade they are those of a linear axis.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    finest: list[float] = []
    for factors in ((1, 2, 5), (1, 3), (1,)):
        finest = [
            value
            for power in range(first, last + 1)
            for factor in factors
            if low <= (value := factor * 10.0**power) <= high
        ]
        if 2 <= len(finest) <= most:
            return finest
    if len(finest) < 2:
        return linear_ticks(low, high, most)
    every = -(-len(finest) // max(most, 1))
    return finest[::every]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Return what stands at values: with as many decimals as tell them apart, never very long."""
    greatest = max((abs(tick) for tick in ticks), default=0.0)
    for decimals in range(7):
        labels = [f"{tick + 0.0:,.{decimals}f}" for tick in ticks]
        exact = all(math.isclose(float(f"{tick:.{decimals}f}"), tick, abs_tol=greatest * 1e-9) for tick in ticks)
        if exact and len(set(labels)) == len(labels) and max(map(len, labels), default=0) <= _LONGEST:
            return [_unsigned_zero(label) for label in labels]
    return [f"{tick:.4g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e") for tick in ticks]


def _unsigned_zero(label: str) -> str:
    return label.removeprefix("-") if float(label.replace(",", "")) == 0 else label
