"""The tensors of a wave embedding, as pictures need them: on the host, and not too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

__all__ = ["WAVE_TENSORS", "WaveTensors", "collect_waves", "spread"]

#: Attributes of the submodule that is drawn.
WAVE_TENSORS = ("frequencies", "phases", "amplitudes")

_MOST_TOKENS = 256
_MOST_WAVES = 64

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WaveTensors:
    """A wave embedding on the host, of up to 256 of V tokens and 64 of W waves, both evenly spread.

    Attributes:
        frequencies: f, (tokens, waves).
        phases: phi, (tokens, waves), in radians.
        amplitudes: a, (tokens, waves, H).
        tokens: their numbers, (tokens,).
        labels: what stands for them in the vocabulary, where the model has one.
        of_tokens, of_waves: V and W.
    """

    frequencies: Floats
    phases: Floats
    amplitudes: Floats
    tokens: list[int]
    labels: list[str]
    of_tokens: int
    of_waves: int


def collect_waves(model: nn.Module) -> WaveTensors | str:
    """Return the wave tensors of a model, wrapped or not, or why there are none: in one line."""
    import torch

    from expkit.checkpoints.state import unwrap

    inner = unwrap(model)
    kind = type(inner).__name__
    holder = next((each for each in inner.modules() if all(hasattr(each, name) for name in WAVE_TENSORS)), None)
    if holder is None:
        return f"no wave tensors ({', '.join(WAVE_TENSORS)}) in {kind}: training plots only"
    f, phi, a = (getattr(holder, name) for name in WAVE_TENSORS)
    tensors = all(isinstance(each, torch.Tensor) for each in (f, phi, a))
    if not tensors or f.ndim != 2 or f.shape != phi.shape or a.ndim != 3 or a.shape[:2] != f.shape or not a.numel():
        shapes = ", ".join(f"{n} {_shape(each)}" for n, each in zip(WAVE_TENSORS, (f, phi, a), strict=True))
        return f"{shapes} in {kind}, not (tokens, waves) twice and (tokens, waves, harmonics): training plots only"
    tokens, waves = spread(f.shape[0], _MOST_TOKENS), spread(f.shape[1], _MOST_WAVES)
    rows, columns = (torch.tensor(chosen, device=f.device) for chosen in (tokens, waves))
    made = [each.detach().index_select(0, rows).index_select(1, columns).float().cpu().numpy() for each in (f, phi, a)]
    labels = _labels(inner, tokens, f.shape[0])
    return WaveTensors(made[0], made[1], made[2], tokens, labels, f.shape[0], f.shape[1])


def spread(count: int, most: int) -> list[int]:
    """Return up to `most` of `count` places, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _labels(model: nn.Module, tokens: list[int], count: int) -> list[str]:
    """Return the character of each token where the buffer `vocabulary` (V,) holds their codes, else its number."""
    codes = dict(model.named_buffers()).get("vocabulary")
    if codes is None or codes.shape != (count,) or codes.is_floating_point():
        return [f"token {token}" for token in tokens]
    found = codes.tolist()
    return [
        f"token {token}, {chr(found[token])!r}" if 0 <= found[token] <= 0x10FFFF else f"token {token}"
        for token in tokens
    ]


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if hasattr(value, "shape") else f"a {type(value).__name__}"
