"""A small convolutional network for images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from expkit.errors import ConfigError
from train.models.mlp import check_dropout, checked_widths

__all__ = ["CNN"]


class CNN(nn.Module):
    """3 x 3 convolutions with ReLU, a 2 x 2 max-pooling after each, and a linear layer that gives the scores (logits).

    Args:
        shape: of an image, (channels, height, width).
        classes: scores that it gives.
        channels: of each convolution's output, a list.
        dropout: probability with which an input of the linear layer is set to 0 in training.

    Raises:
        ConfigError: a number of channels, or a probability, that cannot be.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        channels: int | Sequence[int] = (32, 64),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        in_channels, height, width = shape
        widths = [in_channels, *checked_widths("channels", channels)]
        check_dropout(dropout)
        halved = 2 ** (len(widths) - 1)
        pixels = (height // halved) * (width // halved)
        if not pixels:
            most = int(math.log2(min(height, width)))
            raise ConfigError(
                f"task.model.channels={channels}: each convolution halves the image, which is {height} x {width} "
                f"pixels: at most {most} of them"
            )
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(widths[-1] * pixels, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores, (batch, classes), of images, (batch, *shape)."""
        scores: torch.Tensor = self.head(self.features(x))
        return scores
