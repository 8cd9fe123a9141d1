"""The two weight matrices that a blob diagnostic pairs: where they are, in a model or a state dict; and their pairs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from expkit.diagnostics._evaluation import weight_of
from expkit.errors import ConfigError, UserError

__all__ = ["find_weights", "find_weights_in_state", "weight_pairs"]

#: Names that are tried before the first and the last matrix.
_USUAL = (("encoder", "decoder"), ("fc1", "fc2"))


def find_weights(model: nn.Module, encoder: str | None, decoder: str | None) -> tuple[Tensor, Tensor]:
    """Return W1 (hidden, d) and W2 (d, hidden), found by name or, without names, as `BlobDiagnostic` says.

    Raises:
        ConfigError: there are none, or their shapes are not each other's transpose.
        UserError: `model` is none: its state_dict, or a path, say.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model is of type {type(model).__name__}: give the nn.Module itself")
    if encoder is not None and decoder is not None:
        first = _weight(model, encoder, "encoder")
        last = _weight(model, decoder, "decoder")
        if first.shape != last.T.shape:
            raise ConfigError(
                f"diagnostics.blob.decoder={decoder} has shape {tuple(last.shape)}: expected "
                f"{tuple(first.T.shape)}, the transpose of diagnostics.blob.encoder={encoder}"
            )
        return first, last
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    shapes = {name: torch.Size((module.out_features, module.in_features)) for name, module in linears.items()}
    names = _partners(shapes)
    if names is None:
        raise ConfigError(
            f"diagnostics.blob: found no two linear layers of transposed shapes in {type(model).__name__}; "
            "set diagnostics.blob.encoder=NAME and diagnostics.blob.decoder=NAME, dotted names inside the model"
        )
    return weight_of(linears[names[0]]), weight_of(linears[names[1]])


def find_weights_in_state(state: Mapping[str, object], encoder: str | None, decoder: str | None) -> tuple[str, str]:
    """Return the keys of W1 (hidden, d) and W2 (d, hidden) in a model's state dict, found as in the model itself.

    Modules are unknown here: without names, every matrix called `weight` passes for a linear layer's.

    Raises:
        UserError: there are none, or their shapes are not each other's transpose.
    """
    matrices = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.ndim == 2}
    if encoder is None or decoder is None:
        shapes = {
            key.removesuffix(".weight"): value.shape for key, value in matrices.items() if key.endswith(".weight")
        }
        names = _partners(shapes)
        if names is None:
            raise UserError(
                "no two matrices called weight have transposed shapes: "
                f"name two by encoder=NAME and decoder=NAME, {_listed(matrices)}"
            )
        return f"{names[0]}.weight", f"{names[1]}.weight"
    keys = []
    for argument, name in (("encoder", encoder), ("decoder", decoder)):
        found = next((key for key in (f"{name}.weight", name) if key in matrices), None)
        if found is None:
            raise UserError(f"{argument}={name}: there is no such matrix, {_listed(matrices)}")
        keys.append(found)
    first, last = matrices[keys[0]].shape, matrices[keys[1]].shape
    if first != last[::-1]:
        raise UserError(
            f"decoder={decoder} has shape {tuple(last)}: expected {tuple(first[::-1])}, "
            f"the transpose of encoder={encoder}"
        )
    return keys[0], keys[1]


def _partners(shapes: Mapping[str, torch.Size]) -> tuple[str, str] | None:
    """Return the names of the first candidates, of matrices in the model's order, whose shapes are transposes."""
    names = list(shapes)
    for one, other in (*_USUAL, *([(names[0], names[-1])] if len(names) > 1 else [])):
        if one in shapes and other in shapes and shapes[one] == shapes[other][::-1]:
            return one, other
    return None


def _listed(matrices: Mapping[str, Tensor], most: int = 8) -> str:
    names = [f"{key} {'x'.join(map(str, value.shape))}" for key, value in matrices.items()]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"of {', '.join(names[:most])}{more}" if names else "of which there is none"


def _weight(model: nn.Module, name: str, key: str) -> Tensor:
    path, _, last = name.rpartition(".")
    for module, attribute in ((name, "weight"), (path, last)):
        try:
            found: object = weight_of(model.get_submodule(module), attribute)
        except AttributeError:
            continue
        if isinstance(found, Tensor) and found.ndim == 2:
            return found
    raise ConfigError(
        f"diagnostics.blob.{key}={name}: no weight matrix, nor module with one, in {type(model).__name__}"
    )


def weight_pairs(encoder: Tensor, decoder: Tensor) -> Tensor:
    """Return all pairs, (2, hidden * d) in float64: row 0 holds W1[i, j], row 1 W2[j, i]."""
    # float64: squares of large float32 weights overflow, and means over millions of pairs lose digits.
    device = torch.device("cpu") if encoder.device.type == "mps" else encoder.device
    pair = encoder.detach().to(device, torch.float64), decoder.detach().T.to(device, torch.float64)
    return torch.stack(pair).flatten(1)
