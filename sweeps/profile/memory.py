"""How much memory a measurement took, how much it may take, and whether an error says that it was not enough."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["GB", "Memory", "is_out_of_memory", "limit_memory", "says_out_of_memory"]

GB = 1024**3
#: What CUDA's context takes, at most, in GB: a larger difference is another process's.
_CONTEXT = 4.0

#: How libraries say that there was not enough memory: torch's CPU allocator, CUDA, cuBLAS, cuDNN, MPS, NumPy, C++, the
#: dynamic loader, a loading process that was killed.
_SAYS = re.compile(
    r"out of memory|can(?:no|')t allocate|unable to allocate|_ALLOC_FAILED|bad_alloc|MemoryError"
    r"|DataLoader worker .* killed by signal: Killed|can't start new thread",
    re.IGNORECASE,
)


def says_out_of_memory(text: str) -> bool:
    """Whether the text of an error, or the last lines of a log, say that there was not enough memory."""
    return _SAYS.search(text) is not None


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that there was not enough memory."""
    import torch

    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or says_out_of_memory(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def limit_memory(limit_gb: float, device: torch.device) -> None:
    """Let this process have no more memory: on a GPU torch's allocator, elsewhere the process.

    For the process it is RLIMIT_DATA, which counts what is allocated (heap and private writable mappings): as near to
    the resident set as a limit gets. RLIMIT_AS would count hundreds of megabytes of libraries, too, that are mapped and
    hardly used; a cgroup's limit needs rights that users seldom have, and ends in a kill, where this one is an error
    that says how much was asked for. Each process that loads data has the same limit for itself.
    """
    if device.type == "cuda":
        import torch

        total = torch.cuda.get_device_properties(device).total_memory
        index = torch.cuda.current_device() if device.index is None else device.index  # it takes no plain "cuda"
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gb * GB / total), index)
        return
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * GB), int(limit_gb * GB)))


class Memory:
    """Measures the most that this process takes. To be made before the device is touched.

    Args:
        device: where the model will be.
        limit_gb: the limit that was set, or None.
    """

    def __init__(self, device: torch.device, limit_gb: float | None = None) -> None:
        self._device, self._limit = device, limit_gb
        self._before = self._in_use()

    def read(self) -> dict[str, Any]:
        """Return the figures of a `Profile` about memory: the highest so far."""
        found: dict[str, Any] = {"rss_gb": peak_rss_gb()}
        if self._device.type == "cuda":
            return {**found, **self._of_cuda()}
        if self._device.type == "mps":
            import torch

            held = torch.mps.driver_allocated_memory() / GB  # MPS knows no peak, and gives little back
            total = torch.mps.recommended_max_memory() / GB
            return {**found, "gpu_memory_gb": held, "reserved_gb": held, "memory_total_gb": self._limit or total}
        from expkit.machine.vitals import Vitals

        return {**found, "memory_total_gb": self._limit or Vitals().read().get("memory_limit_gb")}

    def _of_cuda(self) -> dict[str, Any]:
        import torch

        device = self._device
        reserved = torch.cuda.max_memory_reserved(device) / GB
        total = torch.cuda.get_device_properties(device).total_memory / GB
        return {
            # What nvidia-smi shows: torch's own count knows nothing of CUDA's context, its kernels and libraries.
            "gpu_memory_gb": reserved + self._context(),
            "allocated_gb": torch.cuda.max_memory_allocated(device) / GB,
            "reserved_gb": reserved,
            "alloc_retries": int(torch.cuda.memory_stats(device).get("num_alloc_retries", 0)),
            "memory_total_gb": min(self._limit or total, total),
        }

    def _context(self) -> float:
        """Return what the process has of the GPU beside what torch's allocator holds; 0 where NVML cannot tell."""
        import torch

        now = self._in_use()
        if now is None or self._before is None:
            return 0.0
        beside = now - self._before - torch.cuda.memory_reserved(self._device) / GB
        return beside if 0 <= beside <= _CONTEXT else 0.0

    def _in_use(self) -> float | None:
        """Return what NVML says is in use of the whole GPU, whoever has it; to ask takes none of it."""
        if self._device.type != "cuda":
            return None
        from expkit.machine.machine import Machine

        machine = Machine()
        try:
            used: float | None = machine.sample().get(f"gpu/{self._device.index or 0}/memory_used_gb")
        finally:
            machine.close()
        return used


def peak_rss_gb(pid: int | str = "self") -> float | None:
    """Return the largest resident set that a process has had, or None if that cannot be read.

    Linux's VmHWM: `getrusage` would count what the process that started this one had at that moment.
    """
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 / GB if found else None
    except OSError:
        if pid != "self":
            return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GB  # bytes, on macOS
