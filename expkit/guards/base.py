"""What a guard is: a predicate on the device, evaluated between clipping and the optimizer's update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Guard"]


class Guard:
    """Base class of what may skip an update. Only guards skip.

    `bad` runs at every step and must not wait for the device: no `.item()`, no `if` on a tensor. When it says so, the
    parameters, the moments and the optimizer's own step count stay as they were, while the data and the learning-rate
    schedule go on.
    """

    #: Whether `bad` looks at the gradient norm, which then is computed at every step.
    needs_gradient_norm: bool = False

    def bad(self, loss: torch.Tensor, gradient_norm: torch.Tensor | None) -> torch.Tensor:
        """Return a scalar bool tensor on the device of `loss`: whether this update must not happen."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """State that an exact resume needs, as plain types and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
