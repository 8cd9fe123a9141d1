"""A multilayer perceptron: linear layers with ReLU between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from expkit.errors import ConfigError

__all__ = ["MLP", "check_dropout", "checked_widths"]


class MLP(nn.Module):
    """Maps inputs of any shape, flattened, to scores (logits).

    Args:
        inputs: numbers in one input.
        classes: scores that it gives.
        hidden: width of the hidden layer, or a list for several; an empty one for none.
        dropout: probability with which a hidden unit is set to 0 in training.

    Raises:
        ConfigError: a width, or a probability, that cannot be.
    """

    def __init__(
        self, inputs: int, classes: int, hidden: int | Sequence[int] = (256, 128), dropout: float = 0.0
    ) -> None:
        super().__init__()
        widths = [inputs, *checked_widths("hidden", hidden)]
        check_dropout(dropout)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores, (batch, classes), of inputs, (batch, ...)."""
        scores: torch.Tensor = self.layers(x)
        return scores


def checked_widths(key: str, widths: int | Sequence[int]) -> list[int]:
    """Return the widths of layers as a list; one number is one layer.

    Raises:
        ConfigError: naming `task.model.KEY`: a width is not a whole number of at least 1.
    """
    listed = list(widths) if isinstance(widths, Sequence) else [widths]
    if not all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in listed):
        raise ConfigError(f"task.model.{key}={widths}: whole numbers of at least 1 are needed, such as [64, 32]")
    return listed


def check_dropout(dropout: float) -> None:
    """Refuse what is no probability.

    Raises:
        ConfigError: naming `task.model.dropout`.
    """
    if not (isinstance(dropout, int | float) and 0 <= dropout < 1):
        raise ConfigError(f"task.model.dropout={dropout}: a probability is needed, 0 or more and less than 1")
