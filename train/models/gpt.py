"""A small decoder-only transformer, and sampling from it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from expkit.errors import ConfigError

__all__ = ["GPT", "INIT_STD", "generate"]

#: Standard deviation that weight matrices begin with.
INIT_STD = 0.02


class GPT(nn.Module):
    """GPT-2 (Radford et al. 2019): pre-norm blocks, learned positions, GELU, the head tied to the embedding.

    The blocks are `block0`, `block1` and so on, with the layers `attn.c_q`, `attn.c_k`, `attn.c_v`, `attn.c_proj`,
    `mlp.c_fc` and `mlp.c_proj`: queries, keys and values have a matrix each. There is no head of its own: logits are
    inner products with the rows of `token_embedding.weight`. GELU has its tanh form. Weights begin as N(0, 0.02^2), the
    last layer of each residual branch divided by sqrt(2 num_layers), biases at zero.

    Args:
        vocab_size: tokens that there are.
        context_length: tokens that it sees, at most.
        d_model: width of the residual stream; the MLPs are four times as wide.
        num_layers: blocks.
        num_heads: attention heads of each block, which share d_model.
        dropout: probability, for the embeddings, the attention weights and what each block adds.

    Raises:
        ConfigError: a size or a probability that cannot be.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_model: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for key, value in (
            *(("vocab_size", vocab_size), ("context_length", context_length)),
            *(("d_model", d_model), ("num_layers", num_layers), ("num_heads", num_heads)),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"task.model.{key}={value}: a whole number, at least 1")
        if d_model % num_heads:
            raise ConfigError(
                f"task.model.d_model={d_model}: the heads share it, so task.model.num_heads={num_heads} must divide it"
            )
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ConfigError(f"task.model.dropout={dropout}: a probability, 0 or more and less than 1")
        self.context_length = context_length
        self.num_layers = num_layers
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(context_length, d_model)
        self.dropout = nn.Dropout(dropout)
        for number in range(num_layers):
            self.add_module(f"block{number}", _Block(d_model, num_heads, dropout))
        self.norm = nn.LayerNorm(d_model)
        self._initialise()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of each next token, (batch, length, vocab_size), of tokens, (batch, length) int64.

        Raises:
            ValueError: they are more than context_length.
        """
        length = tokens.shape[1]
        if length > self.context_length:
            raise ValueError(f"{length} tokens are more than the model's context_length, {self.context_length}")
        x = self.dropout(self.embed(tokens))
        for number in range(self.num_layers):
            x = getattr(self, f"block{number}")(x)
        return F.linear(self.norm(x), self.token_embedding.weight)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what the blocks begin with, (batch, length, d_model), of tokens, (batch, length)."""
        embedding: torch.Tensor = self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]
        return embedding

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=INIT_STD / math.sqrt(2 * self.num_layers))
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


class _Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.c_q = nn.Linear(d_model, d_model)
        self.c_k = nn.Linear(d_model, d_model)
        self.c_v = nn.Linear(d_model, d_model)
        self.c_proj = nn.Linear(d_model, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = (self.c_q, self.c_k, self.c_v)
        q, k, v = (layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in layers)
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        out: torch.Tensor = self.c_proj(heads.transpose(1, 2).flatten(-2))
        return out


class _MLP(nn.Module):
    """Two layers, four times as wide between them."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(d_model, 4 * d_model)
        self.c_proj = nn.Linear(4 * d_model, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return out


class _Block(nn.Module):
    """Adds attention, then an MLP, each of the normalised residual stream."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.attn = _Attention(d_model, num_heads, dropout)
        self.norm2 = nn.LayerNorm(d_model)
        self.mlp = _MLP(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.attn(self.norm1(x)))
        x = x + self.dropout(self.mlp(self.norm2(x)))
        return x


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt: torch.Tensor,
    n: int,
    context_length: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return `prompt` and `n` tokens after it, each drawn given those before it.

    The model computes in evaluation mode and is left in the mode that it was in. Given a generator, no other is
    touched.

    Args:
        model: maps tokens, (batch, length), to logits, (batch, length, vocab_size).
        prompt: (batch, length) int64, at least one token each.
        n: how many tokens to add.
        context_length: tokens that the model sees, at most.
        temperature: what the logits are divided by; at 0 the most likely token is taken.
        generator: of the draws, on the CPU; None for the global one.

    Returns:
        (batch, length + n) int64, on the prompt's device.
    """
    tokens = prompt
    training = model.training
    model.eval()
    try:
        for _ in range(n):
            # Past what Module.compile installs: it would compile anew for the lengths that come here.
            logits: torch.Tensor = model.forward(tokens[:, -context_length:])
            logits = logits[:, -1].float().cpu()
            if temperature > 0:
                chosen = torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator)
            else:
                chosen = logits.argmax(dim=-1, keepdim=True)
            tokens = torch.cat([tokens, chosen.to(tokens.device)], dim=1)
    finally:
        model.train(training)
    return tokens
