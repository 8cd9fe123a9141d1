"""The gradient noise scale: about how large a batch is beyond which more samples make an update hardly better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from train.data import to_device
from train.tasks.base import Task
from train.update import Update

__all__ = ["NoiseScale", "gradient"]


class NoiseScale:
    """B_simple = S / |G|^2 of McCandlish et al. 2018 (arXiv:1812.06162, appendix A.1), from gradients of some batches.

    With batches of B1 samples, and all n of them as one of B2 = n B1: |G|^2 = (B2 |g2|^2 - B1 |g1|^2) / (B2 - B1) and
    S = (|g1|^2 - |g2|^2) / (1/B1 - 1/B2), |g1|^2 being the mean over the batches.

    Args:
        size: B1, samples of each batch.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._count = 0
        self._squares = 0.0
        self._sum: list[torch.Tensor] | None = None

    def add(self, gradient: Sequence[torch.Tensor]) -> None:
        """Take the gradient of the mean loss over one batch, a tensor for each parameter."""
        self._count += 1
        self._squares += _squared(gradient)
        if self._sum is None:
            self._sum = [each.detach().clone() for each in gradient]
        else:
            torch._foreach_add_(self._sum, list(gradient))

    @property
    def value(self) -> float | None:
        """B_simple in samples; None with fewer than two batches, or where noise leaves nothing of |G|^2."""
        if self._sum is None or self._count < 2:
            return None
        small, large = self._size, self._count * self._size
        small_square = self._squares / self._count
        large_square = _squared(self._sum) / self._count**2
        signal = (large * large_square - small * small_square) / (large - small)
        noise = (small_square - large_square) / (1 / small - 1 / large)
        return noise / signal if signal > 0 and noise >= 0 else None


def gradient(task: Task, model: nn.Module, update: Update, pieces: Sequence[tuple[Any, float]]) -> list[torch.Tensor]:
    """Return the gradient of the mean loss over one update's pieces, as training makes it; no update is done."""
    update.optimizer.zero_grad(set_to_none=True)
    scale = 1.0 if update.scaler is None else float(update.scaler.get_scale()) or 1.0
    for batch, weight in pieces:
        with update.autocast():
            loss = task.step(model, to_device(batch, update.device)).loss * weight
        (loss * scale).backward()  # type: ignore[no-untyped-call]
    found = [p.grad for group in update.optimizer.param_groups for p in group["params"] if p.grad is not None]
    update.optimizer.zero_grad(set_to_none=True)
    return [each / scale for each in found] if scale != 1.0 else found


def _squared(tensors: Sequence[torch.Tensor]) -> float:
    return float(nn.utils.get_total_norm(list(tensors))) ** 2
