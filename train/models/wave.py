"""A transformer whose tokens are also waves: sums of harmonics, with learned frequencies, phases and amplitudes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from expkit.errors import ConfigError
from train.models.gpt import GPT, INIT_STD

__all__ = ["WaveEmbedding", "WaveGPT", "phase_coherence"]

#: The wavelengths of positions grow towards this times 2 pi, as those of sinusoidal positions do.
_LONGEST = 10_000


class WaveEmbedding(nn.Module):
    """Tokens as sums of W waves with H harmonics each, mapped linearly to d_model.

    Of token v at position t, wave w and its harmonic h = 1, ..., H:

        theta = 2 pi h f[v, w] + phi[v, w] + t q[w]
        features: a[v, w, h] sin(theta), a[v, w, h] cos(theta)

    As h is a whole number, f and f + 1 are the same wave: a frequency is identifiable modulo 1 only. With H = 1 it is
    not identifiable apart from the phase either. And (phi + pi, -a) is the same wave as (phi, a).

    Parameters, of V tokens:
        frequencies: f, (V, W). They begin evenly spaced over [0.5, 5], plus 0.1 N(0, 1).
        phases: phi, (V, W), in radians. They begin uniform in [0, 2 pi).
        amplitudes: a, (V, W, H). They begin as 0.5 N(0, 1) / sqrt(H W), so a token's features have a mean square sum
            of 0.25.
        position_frequencies: q, (W,), in radians per position. They begin as the geometric series 10000^(-w / W), for
            w = 0, ..., W - 1, of sinusoidal positions (Vaswani et al. 2017).
        linear.weight: (d_model, 2 W H), without a bias. It begins as N(0, 0.02^2), like all matrices of GPT.

    Args:
        vocab_size: V, tokens that there are.
        d_model: length of an embedding.
        num_waves: W.
        num_harmonics: H.
    """

    def __init__(self, vocab_size: int, d_model: int, num_waves: int = 16, num_harmonics: int = 4) -> None:
        super().__init__()
        shape = (vocab_size, num_waves)
        self.num_harmonics = num_harmonics
        self.frequencies = nn.Parameter(torch.linspace(0.5, 5, num_waves) + 0.1 * torch.randn(shape))
        self.phases = nn.Parameter(2 * math.pi * torch.rand(shape))
        scale = 0.5 / math.sqrt(num_harmonics * num_waves)
        self.amplitudes = nn.Parameter(scale * torch.randn(*shape, num_harmonics))
        self.position_frequencies = nn.Parameter(_LONGEST ** (-torch.arange(num_waves) / num_waves))
        self.linear = nn.Linear(2 * num_waves * num_harmonics, d_model, bias=False)
        nn.init.normal_(self.linear.weight, std=INIT_STD)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return embeddings, (batch, length, d_model), of tokens, (batch, length).

        Only the tokens of the batch are computed; the largest tensors are (batch, length, W, 2 H).
        """
        # Angles of many turns: in half precision their fraction, which alone counts, would be lost.
        frequencies = F.embedding(tokens, self.frequencies).float()
        phases = F.embedding(tokens, self.phases).float()
        amplitudes = F.embedding(tokens, self.amplitudes.flatten(1)).reshape(*phases.shape, self.num_harmonics)
        positions = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * self.position_frequencies.float()
        harmonics = torch.arange(1, self.num_harmonics + 1, device=tokens.device)
        theta = 2 * math.pi * frequencies[..., None] * harmonics + (phases + positions)[..., None]
        features = torch.cat([amplitudes * theta.sin(), amplitudes * theta.cos()], dim=-1)
        embedding: torch.Tensor = self.linear(features.flatten(-2).to(self.linear.weight.dtype))
        return embedding


class WaveGPT(GPT):
    """The transformer `GPT`, whose embedding is ratio * wave + (1 - ratio) * standard, with ratio = sigmoid(rho).

    `wave` is a `WaveEmbedding`; the standard embedding is GPT's, of token and position. All else is GPT's, and named as
    there: the head is tied to `token_embedding` alone.

    Args:
        vocab_size, context_length, d_model, num_layers, num_heads, dropout: see `GPT`.
        num_waves: W, waves of a token.
        num_harmonics: H, harmonics of a wave.
        rho: where the parameter `rho` begins; sigmoid(0.5) = 0.622.

    Raises:
        ConfigError: a size, a probability or a number that cannot be.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_model: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
        num_waves: int = 16,
        num_harmonics: int = 4,
        rho: float = 0.5,
    ) -> None:
        for key, value in (("num_waves", num_waves), ("num_harmonics", num_harmonics)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"task.model.{key}={value}: a whole number, at least 1")
        if isinstance(rho, bool) or not isinstance(rho, int | float) or not math.isfinite(rho):
            raise ConfigError(f"task.model.rho={rho}: a number; the wave's share begins at its sigmoid")
        super().__init__(vocab_size, context_length, d_model, num_layers, num_heads, dropout)
        self.wave = WaveEmbedding(vocab_size, d_model, num_waves, num_harmonics)
        self.rho = nn.Parameter(torch.tensor(float(rho)))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the mixed embeddings, (batch, length, d_model), of tokens, (batch, length)."""
        ratio = torch.sigmoid(self.rho)
        mixed: torch.Tensor = ratio * self.wave(tokens) + (1 - ratio) * super().embed(tokens)
        return mixed

    def get_wave_ratio(self) -> float:
        """Return the wave's share of the embedding, from 0 to 1. Waits for the device."""
        return float(torch.sigmoid(self.rho.detach()))

    def get_coherence_loss(self) -> float:
        """Return 1 - the mean over the waves of `phase_coherence`, from 0 to 1. Waits for the device.

        It is a measurement, and no part of the loss that is minimised.
        """
        return 1 - float(phase_coherence(self.wave.phases.detach()).mean())


def phase_coherence(phases: torch.Tensor) -> torch.Tensor:
    """Return R_w = |mean over tokens of exp(i phi[v, w])|, (W,), of phases (V, W) in radians.

    The mean resultant length of directional statistics (Mardia and Jupp 2000, section 2.3), and the order parameter of
    coupled oscillators (Kuramoto 1984): 1 if all tokens have the same phase, about 0.89 / sqrt(V) if it is random.
    """
    phases = phases.float()
    return torch.hypot(phases.cos().mean(dim=0), phases.sin().mean(dim=0))
