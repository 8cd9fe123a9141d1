"""Gradients and updates: how large they are, against the weights, and how much of them is zero or no number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expkit.diagnostics.base import Diagnostic

__all__ = ["GradientsDiagnostic"]


#: Entries from which on the CPU's float32 norm errs by more than 1e-6; it is 0.3 % at 40 million.
LONG = 100_000


class GradientsDiagnostic(Diagnostic):
    """Norms of gradients and of updates, in all and for each layer: a module that holds parameters itself.

    In a loop of one's own, `before_update(model)` comes before `optimizer.step()`, and `measure(model)` after it.

    Args:
        interval: steps, "log" or "epoch".
        per_layer: each layer as well, not only all together.
        update_ratio: measure updates, for which the weights are copied for the duration of an update.
    """

    def __init__(self, *, interval: int | str = "log", per_layer: bool = True, update_ratio: bool = True) -> None:
        self.interval = interval
        self.per_layer = per_layer
        self.update_ratio = update_ratio
        self._seen: _Seen | None = None

    def before_update(self, model: nn.Module, part: int = 0, parts: int = 1) -> None:  # noqa: ARG002
        """Look at the gradients, as the optimizer will use them: clipped, if they are."""
        self._seen = _Seen(model, self.update_ratio)

    def measure(self, model: nn.Module) -> dict[str, Any]:  # noqa: ARG002 - what it needs it has seen
        """Measure the update that has just been done.

        Returns:
            norm: the L2 norm of the gradient.
            update_ratio: the L2 norm of the change of the weights over that of the weights before it.
            zero_share, nonfinite_share: of the gradient's entries, those that are 0, and NaN or infinite.
            LAYER/norm and so on: the same for one layer. One without a gradient at this step is left out.

            Empty without a `before_update` that saw a gradient.
        """
        seen, self._seen = self._seen, None
        if seen is None or not seen.names:
            return {}
        rows = [*seen.rows()]
        metrics = self._summary(rows)
        if self.per_layer:
            layers: dict[str, list[_Row]] = {}
            for name, row in zip(seen.names, rows, strict=True):
                layers.setdefault(name.rpartition(".")[0] or name, []).append(row)
            for layer, own in layers.items():
                metrics |= {f"{layer}/{key}": value for key, value in self._summary(own).items()}
        return metrics

    def _summary(self, rows: list[_Row]) -> dict[str, float]:
        count = sum(row.entries for row in rows)
        norm, size, update = (math.hypot(*column) for column in list(zip(*rows, strict=True))[:3])
        summary = {
            "norm": norm,
            "zero_share": sum(row.zeros for row in rows) / count,
            "nonfinite_share": sum(row.nonfinite for row in rows) / count,
        }
        return summary | ({"update_ratio": update / size if size else math.nan} if self.update_ratio else {})


class _Row(NamedTuple):
    """One parameter: the L2 norms of its gradient, of itself and of its update, and what its gradient consists of."""

    norm: float
    size: float
    update: float
    zeros: float
    nonfinite: int
    entries: int


class _Seen:
    """The parameters of one update that have a gradient, and what was seen of them before it."""

    def __init__(self, model: nn.Module, copy: bool) -> None:
        named = [(name, p.detach(), p.grad) for name, p in model.named_parameters() if p.grad is not None and p.numel()]
        self.names = [name for name, _, _ in named]
        if not named:
            return
        self._weights = [weight for _, weight, _ in named]
        # Kept until it is known whether one of them has to be searched for what is no number.
        self._gradients = [gradient for _, _, gradient in named]
        self._norms = _norms(self._gradients)
        self._zeros = torch.stack([(g.numel() - torch.count_nonzero(g)) / g.numel() for g in self._gradients])
        self._before = [weight.clone() for weight in self._weights] if copy else None
        self._sizes = _norms(self._weights) if copy else torch.zeros_like(self._norms)

    def rows(self) -> Iterator[_Row]:
        """Yield a row for each parameter: one copy from the device, and a search where a norm is not finite."""
        updates = torch.zeros_like(self._norms)
        if self._before is not None:
            torch._foreach_sub_(self._before, self._weights)
            updates = _norms(self._before)
        table = torch.stack([self._norms, self._sizes, updates, self._zeros], dim=1).tolist()
        for gradient, (norm, size, update, zeros) in zip(self._gradients, table, strict=True):
            bad = 0 if math.isfinite(norm) else int((~torch.isfinite(gradient)).sum())
            yield _Row(norm, size, update, zeros * gradient.numel(), bad, gradient.numel())


def _norms(tensors: list[Tensor]) -> Tensor:
    """Return the L2 norm of each, (n,) in float32."""
    return torch.stack(torch._foreach_norm([_rows(tensor) for tensor in tensors], 2, torch.float32))


def _rows(tensor: Tensor) -> Tensor:
    """Return a shorter tensor of the same norm where that of this one at once is wrong: a long one, on the CPU."""
    if tensor.device.type != "cpu" or tensor.numel() < LONG or tensor.ndim < 2:
        return tensor
    rows: Tensor = torch.linalg.vector_norm(tensor, dim=-1, dtype=torch.float32)
    return rows
