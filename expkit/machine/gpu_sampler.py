"""A thread that looks at the machine every few seconds, beside training and never in its way."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping

from expkit.errors import UserError
from expkit.machine.machine import Machine

__all__ = ["GPUSampler"]

log = logging.getLogger("expkit")

_FIRST = 1.0  # so that short runs have a sample too
_PATIENCE = 2.0


class GPUSampler:
    """Samples GPUs, CPU and memory while its context lasts. In a loop of one's own:

        with GPUSampler() as gpu:
            for step in ...:
                metrics_logger.log_metrics(step, {"loss": loss, **gpu.take()})

    It runs in a daemon thread, which ends with the context; a process that is forked meanwhile has none. There are no
    `gpu/...` metrics where there is no NVIDIA driver: then cpu/percent, memory/percent and process/rss_gb are all.

    Args:
        on_sample: called with each sample, name -> value, in the sampler's thread. What it raises is said once.
        interval: seconds between two samples; the first comes after one second.
        machine: what is sampled.

    Raises:
        UserError: `interval` is no number, or less than 1: NVML's own averages are no faster.
    """

    def __init__(
        self,
        on_sample: Callable[[Mapping[str, float]], object] | None = None,
        interval: float = 10.0,
        machine: Machine | None = None,
    ) -> None:
        number = isinstance(interval, int | float) and not isinstance(interval, bool)
        if not number or not 1 <= interval < math.inf:
            raise UserError(f"interval={interval}: it must be a number of seconds, at least 1")
        self.interval = interval
        self._on_sample = on_sample
        self._machine = machine
        self._newest: deque[Mapping[str, float]] = deque(maxlen=1)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed = False

    def __enter__(self) -> GPUSampler:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to sample."""
        if self._thread is not None:
            return
        machine = self._machine or Machine()
        self._stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(machine, self._stop), name="expkit-gpu", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the limit of threads
            log.warning("no GPU metrics: %s", error)
        else:
            self._thread = thread

    def take(self) -> Mapping[str, float]:
        """Return the newest sample, once: {} until there is another one."""
        try:
            return self._newest.pop()
        except IndexError:
            return {}

    def close(self, timeout: float = _PATIENCE) -> None:
        """Stop sampling. A driver that does not answer is waited for `timeout` seconds, and then left alone."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is None:
            return
        thread.join(timeout)
        if thread.is_alive():
            log.warning("the GPU driver has not answered for %g s: its last sample is given up", timeout)

    def _run(self, machine: Machine, stop: threading.Event) -> None:
        machine.open()
        pause = _FIRST
        while not stop.wait(pause):
            pause = self.interval
            sample = machine.sample()
            if sample and not stop.is_set():  # who has given up waiting wants it no more
                self._hand_out(sample)
        machine.close()

    def _hand_out(self, sample: Mapping[str, float]) -> None:
        self._newest.append(sample)
        if self._on_sample is None:
            return
        try:
            self._on_sample(sample)
        except Exception as error:  # noqa: BLE001 - whatever somebody's own function does: the next sample may pass
            if not self._failed:
                log.warning("a sample of the machine was not taken: %s: %s", type(error).__name__, error)
            self._failed = True
