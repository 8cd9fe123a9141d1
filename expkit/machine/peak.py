"""The most memory that tensors took on a GPU, epoch by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["PeakMemory"]


class PeakMemory:
    """Measures gpu/peak_memory_gb: the most that torch had allocated at a time (1024^3 bytes). Nothing without CUDA.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        """Forget what came before."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)

    def take(self) -> dict[str, float]:
        """Return the peak since the last call, or since `start`."""
        if self._device.type != "cuda":
            return {}
        import torch

        peak = torch.cuda.max_memory_allocated(self._device) / 1024**3
        self.start()
        return {"gpu/peak_memory_gb": peak}
