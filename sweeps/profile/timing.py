"""How long an update takes: blocks of updates between two moments at which the device had nothing left to do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["StepTimer", "waiter"]

#: Seconds of a block, at least: so long that to wait for the device at its end costs next to nothing.
_BLOCK = 0.05


class StepTimer:
    """Times updates once the warm-up is over. Waiting for the device at every one of them would slow them down.

    Args:
        wait: waits until the device has done everything.
        warm_up: updates that are not timed: caches fill, kernels are chosen and compiled.
        block: seconds of a block, at least.
        clock: seconds, rising.
    """

    def __init__(
        self,
        wait: Callable[[], object],
        warm_up: int = 10,
        block: float = _BLOCK,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._wait, self._warm_up, self._block, self._clock = wait, warm_up, block, clock
        self._done = 0
        self._began: float | None = None
        self._inside = 0
        self.blocks: list[float] = []  # seconds of an update, a mean in each
        self.timed = 0
        self.seconds = 0.0

    @property
    def warm(self) -> bool:
        """Whether the warm-up is over."""
        return self._done >= self._warm_up

    def step(self) -> None:
        """Say that an update has been done, on a whole batch."""
        self._done += 1
        if not self.warm:
            return
        if self._began is None:
            self.go_on()
            return
        self._inside += 1
        if self._clock() - self._began >= self._block:
            self.stop()
            self.go_on()

    def stop(self) -> None:
        """End the block: something comes that is no update, or not on a whole batch."""
        if self._began is not None and self._inside:
            self._wait()
            seconds = self._clock() - self._began
            self.blocks.append(seconds / self._inside)
            self.seconds += seconds
            self.timed += self._inside
        self._began = None

    def go_on(self) -> None:
        """Begin a block, if it is warm."""
        if self.warm:
            self._wait()
            self._began, self._inside = self._clock(), 0

    @property
    def median(self) -> float | None:
        """Seconds of an update, the median over blocks; None without one."""
        return statistics.median(self.blocks) if self.blocks else None

    @property
    def iqr(self) -> float | None:
        """The interquartile range over blocks, in seconds; None with fewer than two."""
        if len(self.blocks) < 2:
            return None
        low, _, high = statistics.quantiles(self.blocks, n=4, method="inclusive")
        return high - low


def waiter(device: torch.device) -> Callable[[], object]:
    """Return what waits until a device has done everything."""
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)  # the current one may be another
    return torch.mps.synchronize if device.type == "mps" else lambda: None
