"""GPU figures out of the rows that W&B holds of a run: current, average and maximum, per GPU and in total."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from expkit.wandb_data.source import QueriedRun, Row

__all__ = ["GpuFigures", "Stats", "history_keys", "read_gpus"]

_GB = 1024**3
_METRIC = re.compile(r"gpu/(?:(?P<gpu>\d{1,9})/)?(?P<name>\w+)")
_SYSTEM = re.compile(r"gpu\.(?P<gpu>\d{1,9})\.(?P<name>\w+)")

#: W&B's own names of what it samples -> ours, and by what to divide.
_SYSTEM_NAMES = {
    "gpu": ("compute_util", 1),
    "memory": ("memory_util", 1),
    "memoryAllocated": ("memory_used_pct", 1),
    "memoryAllocatedBytes": ("memory_used_gb", _GB),
    "powerWatts": ("power_w", 1),
    "temp": ("temp_c", 1),
}
_QUANTITIES = {name for name, _ in _SYSTEM_NAMES.values()}
#: What is averaged over GPUs in the training history -> the name that the same has of one GPU.
_AVERAGED = {
    "compute_util_avg": "compute_util",
    "memory_util_avg": "memory_util",
    "memory_used_avg_gb": "memory_used_gb",
}
_AGGREGATES = frozenset(f"gpu/{name}" for name in (*_AVERAGED, "memory_used_total_gb"))


@dataclass
class Stats:
    """Of one quantity: how many values there were, the last, their sum, the largest."""

    count: int = 0
    current: float = math.nan
    total: float = 0.0
    maximum: float = -math.inf

    def add(self, value: float) -> None:
        """Take the next value."""
        self.count += 1
        self.current = value
        self.total += value
        self.maximum = max(self.maximum, value)

    @property
    def average(self) -> float:
        """The mean of all values; there must be one."""
        return self.total / self.count


@dataclass
class GpuFigures:
    """What there is to say of a run's GPUs. A quantity that nobody recorded is not there.

    Attributes:
        gpus: number of a GPU -> quantity (compute_util, memory_util, memory_used_pct: percent; memory_used_gb: units
            of 1024^3 bytes; power_w: watts; temp_c: degrees Celsius) -> figures.
        averaged: quantity -> figures of its average over GPUs, as the training recorded it.
        total_memory_gb: memory used by all GPUs together: figures of the sum at each moment, not sums of figures.
    """

    gpus: dict[int, dict[str, Stats]] = field(default_factory=dict)
    averaged: dict[str, Stats] = field(default_factory=dict)
    total_memory_gb: Stats | None = None

    def __bool__(self) -> bool:
        """Whether anything was recorded."""
        return bool(self.gpus or self.averaged or self.total_memory_gb)

    def overall(self, quantity: str) -> float | None:
        """Return the average of a quantity over time and GPUs, None if it was not recorded."""
        if quantity in self.averaged:
            return self.averaged[quantity].average
        means = [stats[quantity].average for stats in self.gpus.values() if quantity in stats]
        return sum(means) / len(means) if means else None


def history_keys(run: QueriedRun) -> list[str]:
    """Return the names of GPU metrics in the training history of a run."""
    return [name for name in run.names() if _METRIC.fullmatch(name)]


def read_gpus(run: QueriedRun, system: bool = False, single: bool = True) -> GpuFigures:
    """Return the figures of a run.

    Args:
        run: where they come from.
        system: read the system stream, which W&B samples by itself, instead of what the training has logged.
        single: whether figures of single GPUs matter. Without, fewer metrics are asked for if averages were logged.
    """
    keys = [] if system else history_keys(run)
    if not single and _AGGREGATES.issubset(keys):
        keys = sorted(_AGGREGATES)
    figures, sums, logged = GpuFigures(), dict[frozenset[int], Stats](), Stats()
    for row in run.system if system else run.metrics(keys):
        used = {}
        for gpu, name, value in _values(row, system):
            if gpu is not None and name in _QUANTITIES:
                figures.gpus.setdefault(gpu, {}).setdefault(name, Stats()).add(value)
                if name == "memory_used_gb":
                    used[gpu] = value
            elif gpu is None and name in _AVERAGED:
                figures.averaged.setdefault(_AVERAGED[name], Stats()).add(value)
            elif gpu is None and name == "memory_used_total_gb":
                logged.add(value)
        if used:
            sums.setdefault(frozenset(used), Stats()).add(sum(used.values()))
        if not system:
            _add_percent(figures, row)
    figures.gpus = dict(sorted(figures.gpus.items()))
    # A moment at which one GPU said nothing has no total.
    figures.total_memory_gb = logged if logged.count else sums.get(frozenset(figures.gpus))
    return figures


def _add_percent(figures: GpuFigures, row: Row) -> None:
    used, there = _number(row.get("gpu/memory_used_total_gb")), _number(row.get("gpu/memory_total_gb"))
    if used is not None and there:
        figures.averaged.setdefault("memory_used_pct", Stats()).add(100 * used / there)


def _values(row: Row, system: bool) -> Iterator[tuple[int | None, str, float]]:
    """Yield which GPU (None for all), which quantity, and its value."""
    for key, entry in row.items():
        about, value = (_system_quantity if system else _quantity)(key), _number(entry)
        if about is not None and value is not None:
            gpu, name, divisor = about
            yield gpu, name, value / divisor


@cache
def _quantity(key: str) -> tuple[int | None, str, int] | None:
    match = _METRIC.fullmatch(key)
    return (int(match["gpu"]) if match["gpu"] else None, match["name"], 1) if match else None


@cache
def _system_quantity(key: str) -> tuple[int | None, str, int] | None:
    match = _SYSTEM.fullmatch(key)
    return (int(match["gpu"]), *_SYSTEM_NAMES[match["name"]]) if match and match["name"] in _SYSTEM_NAMES else None


def _number(value: object) -> float | None:
    """Return a finite number; None for anything else: NaN is no measurement."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
