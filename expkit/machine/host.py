"""CPU and memory of this machine, and the memory of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from expkit.machine.latch import Latch

__all__ = ["Host"]

_GB = 1024**3


class Host:
    """Reads cpu/percent and memory/percent of the machine, and process/rss_gb (1024^3 bytes) of this process.

    Args:
        psutil: the module to ask.
        latch: makes the calls.
    """

    def __init__(self, psutil: Any, latch: Latch) -> None:
        self._latch = latch
        self._queries: dict[str, Callable[[], float]] = {
            "cpu/percent": lambda: float(psutil.cpu_percent(interval=None)),
            "memory/percent": lambda: float(psutil.virtual_memory().percent),
            "process/rss_gb": lambda: psutil.Process().memory_info().rss / _GB,
        }

    def read(self) -> dict[str, float]:
        """Return what can be read now.

        CPU use is that since the last call in this thread, so the first call's value means nothing.
        """
        values = {name: self._latch.attempt(name, query) for name, query in self._queries.items()}
        return {name: value for name, value in values.items() if value is not None}
