"""The two weight matrices that a blob diagnostic pairs: where they are in a model, and their pairs."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor, nn

from expkit.errors import ConfigError

__all__ = ["find_weights", "weight_pairs"]


def find_weights(model: nn.Module, encoder: str | None, decoder: str | None) -> tuple[Tensor, Tensor]:
    """Return W1 (hidden, d) and W2 (d, hidden), found by name or, without names, as `BlobDiagnostic` says.

    Raises:
        ConfigError: there are none, or their shapes are not each other's transpose.
    """
    if encoder is not None and decoder is not None:
        first = _weight(model, encoder, "encoder")
        last = _weight(model, decoder, "decoder")
        if first.shape != last.T.shape:
            raise ConfigError(
                f"diagnostics.blob.decoder={decoder} has shape {tuple(last.shape)}: expected "
                f"{tuple(first.T.shape)}, the transpose of diagnostics.blob.encoder={encoder}"
            )
        return first, last
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    candidates = [
        (getattr(model, "encoder", None), getattr(model, "decoder", None)),
        (getattr(model, "fc1", None), getattr(model, "fc2", None)),
        *([(linears[0], linears[-1])] if len(linears) > 1 else []),
    ]
    for one, other in candidates:
        if isinstance(one, nn.Linear) and isinstance(other, nn.Linear) and one.weight.shape == other.weight.T.shape:
            return one.weight, other.weight
    raise ConfigError(
        f"diagnostics.blob: found no two linear layers of transposed shapes in {type(model).__name__}; "
        "set diagnostics.blob.encoder=NAME and diagnostics.blob.decoder=NAME, dotted names inside the model"
    )


def _weight(model: nn.Module, name: str, key: str) -> Tensor:
    try:
        found = attrgetter(name)(model)
    except AttributeError:
        found = None
    if isinstance(found, nn.Module):
        found = getattr(found, "weight", None)
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise ConfigError(
            f"diagnostics.blob.{key}={name}: no weight matrix, nor module with one, in {type(model).__name__}"
        )
    return found


def weight_pairs(encoder: Tensor, decoder: Tensor) -> Tensor:
    """Return all pairs, (2, hidden * d) in float64: row 0 holds W1[i, j], row 1 W2[j, i]."""
    # float64: squares of large float32 weights overflow, and means over millions of pairs lose digits.
    device = torch.device("cpu") if encoder.device.type == "mps" else encoder.device
    pair = encoder.detach().to(device, torch.float64), decoder.detach().T.to(device, torch.float64)
    return torch.stack(pair).flatten(1)
