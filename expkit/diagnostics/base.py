"""What a diagnostic is: it looks at the model and returns numbers, on a schedule of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Diagnostic"]


class Diagnostic:
    """Base class of what looks at a model.

    `measure` is called where the weights are, under `torch.no_grad()`, with the unwrapped model; it must not change
    the model, nor draw from the global random generators (that would change the training that it only watches).
    Non-numbers (lists, say) in the dict that it returns are journalled under `details`. If it raises, or returns
    something else, that is said once and training goes on.
    """

    def check(self, model: nn.Module) -> None:
        """Raise `expkit.errors.ConfigError` if `model` lacks what `measure` needs. Called before training."""

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Return metric name -> number. Names carry no prefix: the journal adds the diagnostic's own (`blob/`)."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """State that an exact resume needs, as plain types and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
