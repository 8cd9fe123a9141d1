"""How much memory a process has in use, and whether it grows."""

from __future__ import annotations

import ctypes
import math
import statistics
from collections.abc import Sequence
from typing import ClassVar

__all__ = ["malloc_bytes", "slope"]


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33."""

    _fields_: ClassVar = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def malloc_bytes() -> int | None:
    """Return the bytes that the C allocator has given out and not got back; None where it does not say."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return None
    ask.restype = _MallocInfo
    info = ask()
    return int(info.uordblks + info.hblkhd)


def slope(points: Sequence[tuple[float, float]], segments: int) -> tuple[float, float]:
    """Return the slope of the line through the means of `segments` parts of `points`, and its standard error.

    Means, because neighbours are alike: each point by itself would make the error too small.
    """
    size = len(points) / segments
    parts = [points[round(number * size) : round((number + 1) * size)] for number in range(segments)]
    means = [tuple(map(statistics.fmean, zip(*part, strict=True))) for part in parts if part]
    xs, ys = zip(*means, strict=True)
    rate, offset = statistics.linear_regression(xs, ys)
    left = sum((y - offset - rate * x) ** 2 for x, y in means) / (len(means) - 2)
    middle = statistics.fmean(xs)
    return rate, math.sqrt(left / sum((x - middle) ** 2 for x in xs))
