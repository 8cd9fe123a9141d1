"""The denoiser of sparse mean-field data: one hidden layer with a cubed tanh."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["TwoLayerNet"]


class TwoLayerNet(nn.Module):
    """o = W2 tanh(W1 x + b1)^3 + b2, the cube element-wise; W1 is hidden x d, W2 is d x hidden, not tied.

    Args:
        d: length of the input and output vectors.
        hidden: number of hidden units.
        encoder_init_scale: factor on W1's Xavier-normal initialisation; biases begin at zero.
        decoder_init_scale: the same for W2.
    """

    def __init__(self, d: int, hidden: int, encoder_init_scale: float = 1.0, decoder_init_scale: float = 1.0) -> None:
        super().__init__()
        self.encoder = nn.Linear(d, hidden)
        self.decoder = nn.Linear(hidden, d)
        for layer, scale in ((self.encoder, encoder_init_scale), (self.decoder, decoder_init_scale)):
            nn.init.xavier_normal_(layer.weight, gain=scale)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map noisy vectors, (batch, d), to denoised ones of the same shape."""
        out: torch.Tensor = self.decoder(torch.tanh(self.encoder(x)) ** 3)
        return out
