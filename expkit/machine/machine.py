"""One sample of everything that the machine says of itself, under the names of the metrics."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from expkit.machine.host import Host
from expkit.machine.latch import Latch
from expkit.machine.nvml import Nvml

__all__ = ["Machine", "gpu_metrics"]

log = logging.getLogger("expkit")

#: NVML's codes for what is no trouble: not supported, no permission, driver not loaded, library not found.
_USUAL = (3, 4, 9, 12)
_NO_DRIVER = (9, 12)


class Machine:
    """Reads this machine. It never raises, and says once what it cannot read, and why.

    Args:
        pynvml, psutil: modules to ask in place of those that are installed.
        latch: decides when what has failed is tried again.
    """

    def __init__(self, pynvml: Any = None, psutil: Any = None, latch: Latch | None = None) -> None:
        self._latch = latch or Latch()
        pynvml = pynvml or _installed("pynvml", "nvidia-ml-py", "gpu/...")
        psutil = psutil or _installed("psutil", "psutil", "cpu/percent, memory/percent, process/rss_gb")
        self._nvml = Nvml(pynvml, self._latch) if pynvml is not None else None
        self._host = Host(psutil, self._latch) if psutil is not None else None

    def open(self) -> None:
        """Get ready: CPU use is counted from here. In the thread that samples, since a sick driver may hang."""
        if self._host is not None:
            self._host.read()
        if self._nvml is not None:
            found, news = self._nvml.uuids(), self._latch.news()
            self._say(news)
            if not found and not news:
                visible = os.environ.get("CUDA_VISIBLE_DEVICES")
                why = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
                log.info("this process has no GPU%s: there are no GPU metrics", why)

    def sample(self) -> dict[str, float]:
        """Return the metrics of now. What cannot be read is not among them."""
        metrics = gpu_metrics(self._nvml.read()) if self._nvml is not None else {}
        if self._host is not None:
            metrics |= self._host.read()
        self._say(self._latch.news())
        return metrics

    def close(self) -> None:
        """Let go of the driver."""
        if self._nvml is not None:
            self._nvml.close()

    def _say(self, news: Mapping[Any, Exception]) -> None:
        missing: dict[tuple[str, str, int], list[str]] = {}
        for name, error in news.items():
            reason = str(error) or type(error).__name__
            level = logging.INFO if isinstance(error, LookupError) or _code(error) in _USUAL else logging.WARNING
            if isinstance(name, tuple):
                index, uuid, names = name
                missing.setdefault((f"GPU {index} ({uuid})", reason, level), []).extend(names)
            elif name == "nvml" and _code(error) in _NO_DRIVER:
                log.info("no NVIDIA driver here (%s): there are no GPU metrics", reason)
            else:
                what = {"nvml": "GPU metrics", "gpus": "GPU metrics yet"}.get(name, name)
                log.log(level, "no %s: %s", what, reason)
        for (gpu, reason, level), names in missing.items():
            log.log(level, "%s: no %s: %s", gpu, ", ".join(names) or "metrics", reason)


def gpu_metrics(readings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics that the readings of a process's GPUs make, in CUDA's order.

    An average is that of the GPUs that say it. A total is there only if all of them do: that of a few would be wrong.
    """
    found: dict[str, list[float]] = {}
    for reading in readings:
        for name, value in reading.items():
            found.setdefault(name, []).append(value)
    metrics: dict[str, float] = {}
    for name, summary in (
        ("compute_util", "compute_util_avg"),
        ("memory_util", "memory_util_avg"),
        ("memory_used_gb", "memory_used_avg_gb"),
    ):
        if name in found:
            metrics[f"gpu/{summary}"] = sum(found[name]) / len(found[name])
    for name, summary in (("memory_used_gb", "memory_used_total_gb"), ("memory_total_gb", "memory_total_gb")):
        if len(found.get(name, ())) == len(readings) > 0:
            metrics[f"gpu/{summary}"] = sum(found[name])
    for index, reading in enumerate(readings):
        metrics |= {f"gpu/{index}/{name}": value for name, value in reading.items() if name != "memory_total_gb"}
    return metrics


def _installed(module: str, package: str, metrics: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        log.info("no %s metrics: the package %s cannot be imported (%s)", metrics, package, error)
        return None


def _code(error: Exception) -> int | None:
    return getattr(error, "value", None)
