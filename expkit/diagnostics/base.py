"""What a diagnostic is: it looks at the model and returns numbers, on a schedule of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Diagnostic"]


class Diagnostic:
    """Base class of what looks at a model.

    Its methods are called on every rank, where the weights are, under `torch.no_grad()`, with the unwrapped model. They
    must not change the model, nor draw from the global random generators (that would change the training that they
    only watch). What one raises, or returns wrongly, is said once, and training goes on.
    """

    #: When it is due: every so many steps, "log" (with the records of training metrics), or "epoch" (at the end of
    #: each epoch, and of the run). The runner may lengthen it, to keep `trainer.diagnostics_budget`.
    interval: int | str = "epoch"

    #: Whether `before_update` does a part of the work at each step, instead of all of it at the step that is due: so
    #: that no step is much slower than others.
    spread: bool = False

    def check(self, model: nn.Module) -> None:
        """Raise `expkit.errors.ConfigError` if `model` lacks what it needs. Called once, before training."""

    def use_probe(self, forward: Callable[[nn.Module], object]) -> None:
        """Take a function that runs a model on a batch that is always the same, in evaluation mode.

        Called once, before training, if this method is overridden.
        """

    def before_update(self, model: nn.Module, part: int = 0, parts: int = 1) -> None:
        """Look at weights and gradients together: after clipping, before the optimizer's step.

        Called at the step that is due, with part 0 of 1. With `spread` at every step, with one of the `parts` steps of
        an interval, from 0; `parts` may grow in a run, and a resume goes on anywhere in an interval.
        """

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Return metric name -> number, when it is due: after the update of that step.

        The journal puts the diagnostic's own name before each (`blob/`), unless it is just that name. What is no number
        (a list, say) is journalled under `details`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no measure(model), which returns a dict of numbers")

    def state_dict(self) -> dict[str, Any]:
        """State that an exact resume needs, as plain types and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
