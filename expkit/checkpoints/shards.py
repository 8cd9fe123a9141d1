"""Tensors that are spread over the ranks (DTensor, as FSDP2 makes them): taken out of a state, and put in again."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["has_shards", "holds_tensors", "is_dtensor", "map_tensors", "meta_tensors", "over_copies", "split"]

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})


def is_dtensor(value: Any) -> TypeGuard[DTensor]:
    """Whether `value` is a DTensor. Who holds one has imported its module, which takes a while."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def has_shards(model: nn.Module) -> bool:
    """Whether parameters or buffers of `model` are spread over the ranks, as with `fully_shard`."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(isinstance(module, fsdp.FSDPModule) for module in model.modules()):
        return True  # between an evaluation and the next update its parameters are whole
    return any(map(is_dtensor, model.parameters())) or any(map(is_dtensor, model.buffers()))


def split(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, DTensor]]:
    """Return `state` with a meta tensor in the place of each DTensor, and these by their dotted path.

    What is pending (the sum of a `Partial` placement) is computed: all ranks must call this, in the same order.
    """
    from torch.distributed.tensor import DTensor, Replicate

    shards: dict[str, DTensor] = {}

    def take(path: str, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        whole = [Replicate() if each.is_partial() else each for each in tensor.placements]
        shards[path] = tensor.redistribute(placements=whole)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return map_tensors(state, take), shards


def over_copies(shards: Mapping[str, DTensor], copies: Mapping[str, torch.Tensor]) -> dict[str, DTensor]:
    """Return `shards` with `copies`, on the CPU, as this rank's parts."""
    from torch.distributed.tensor import DTensor

    make: Any = DTensor  # `DTensor.from_local` would move them to the device of the mesh
    return {name: make(copies[name], shard._spec, requires_grad=False) for name, shard in shards.items()}


def map_tensors(value: Any, change: Callable[[str, torch.Tensor], Any], path: str = "") -> Any:
    """Return `value` with `change(dotted path, tensor)` in the place of each tensor in it; it is not changed itself."""
    kind, prefix = type(value), f"{path}." if path else ""
    if isinstance(value, torch.Tensor):
        return change(path, value)
    if kind in (dict, OrderedDict, Counter):
        changed = kind((key, map_tensors(item, change, f"{prefix}{key}")) for key, item in value.items())
        if hasattr(value, "_metadata"):  # of a module's state: versions of the formats
            changed._metadata = value._metadata  # type: ignore[union-attr]
        return changed
    if kind in (list, tuple) and holds_tensors(value):
        return kind(map_tensors(item, change, f"{prefix}{index}") for index, item in enumerate(value))
    return value


def meta_tensors(value: Any) -> dict[str, torch.Tensor]:
    """Return the tensors on the device `meta` in `value`, by dotted path: where `split` has taken one out."""
    found: dict[str, torch.Tensor] = {}
    map_tensors(value, lambda path, tensor: found.setdefault(path, tensor) if tensor.is_meta else None)
    return found


def holds_tensors(value: list[Any] | tuple[Any, ...]) -> bool:
    """Whether anything in `value` is no plain value."""
    return not _PLAIN.issuperset(map(type, value))  # at C speed, for histories of a million losses
