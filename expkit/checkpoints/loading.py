"""A checkpoint into a model and an optimizer: a file or a folder of shards, into what is sharded or not.

No rank asks another: each reads of a folder what it needs, whatever the number of processes that wrote it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expkit.checkpoints.shards import is_dtensor, map_tensors
from expkit.checkpoints.state import bare_name, load_model_state, unwrap
from expkit.checkpoints.storage import peek_checkpoint
from expkit.errors import ResumeError

__all__ = ["load_into"]


def load_into(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Load the checkpoint at `path` into `model` and `optimizer`, wrapped or not, sharded (`fully_shard`) or not.

    With several ranks each calls it. It does not verify: see `checkpoint_error`.

    Args:
        path: a file, or a folder of shards.
        model: gets the weights; its parameters keep their devices and placements.
        optimizer: gets its state, if it is given; of the same parameters.

    Returns:
        The checkpoint as `peek_checkpoint` gives it: for all that is no tensor of these two.

    Raises:
        ResumeError: the checkpoint is of another model or optimizer.
    """
    checkpoint = peek_checkpoint(path)
    tensors: dict[str, torch.Tensor] = {}
    weights = _fitted(checkpoint, "model_state_dict", _weights_of(model), tensors)
    state = None
    if optimizer is not None:
        state = _fitted(checkpoint, "optimizer_state_dict", _state_of(optimizer, checkpoint), tensors)
    if tensors:
        from expkit.checkpoints.dcp import read_tensors

        read_tensors(path, tensors)
    load_model_state(model, weights)
    if optimizer is not None and state is not None:
        try:
            optimizer.load_state_dict(state)
        except (KeyError, ValueError) as error:
            raise ResumeError(f"the checkpoint does not fit the optimizer: {error}") from error
    return checkpoint


Similar = Callable[[str, torch.Tensor], torch.Tensor | None]


def _fitted(checkpoint: Mapping[str, Any], part: str, like: Similar, tensors: dict[str, torch.Tensor]) -> Any:
    """Return a part of a checkpoint with tensors that are placed as they will be.

    Args:
        checkpoint: as `peek_checkpoint` gives it.
        part: the key of the part.
        like: returns for the path of a tensor and itself one of its shape that is placed as it will be, or None.
        tensors: gets those that are still to be read from shards, by their names there.
    """

    def fit(path: str, tensor: torch.Tensor) -> torch.Tensor:
        model = like(path.removeprefix(f"{part}."), tensor)
        if tensor.is_meta:
            return tensors.setdefault(path, _room(tensor, model))
        if is_dtensor(model):
            from torch.distributed.tensor import distribute_tensor

            whole = tensor.to(model.device)
            tensor = distribute_tensor(whole, model.device_mesh, model.placements, src_data_rank=None)
        # An optimizer keeps what it is given, which here is mapped from the file.
        return tensor.clone() if part == "optimizer_state_dict" else tensor

    return map_tensors(checkpoint[part], fit, part)


def _room(tensor: torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
    """Return memory for a tensor, or for this rank's part of it, placed as `like`."""
    if like is None:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    if like.shape == tensor.shape:
        return torch.empty_like(like, dtype=tensor.dtype, requires_grad=False)
    if not is_dtensor(like):
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=like.device)
    from torch.distributed import tensor as distributed

    everywhere = [distributed.Replicate()] * like.device_mesh.ndim
    return distributed.empty(tensor.shape, dtype=tensor.dtype, device_mesh=like.device_mesh, placements=everywhere)


def _weights_of(model: nn.Module) -> Similar:
    own = {bare_name(name): value for name, value in unwrap(model).state_dict().items()}

    def like(name: str, tensor: torch.Tensor) -> torch.Tensor | None:
        found = own.get(bare_name(name))
        return found if isinstance(found, torch.Tensor) and found.shape == tensor.shape else None

    return like


def _state_of(optimizer: torch.optim.Optimizer, checkpoint: Mapping[str, Any]) -> Similar:
    """Return what a tensor of an optimizer's state is placed as: the one that is there already, or its parameter."""
    groups = checkpoint["optimizer_state_dict"].get("param_groups", ())
    numbers = itertools.chain.from_iterable(group["params"] for group in groups)
    parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    by_number = {str(number): parameter for number, parameter in zip(numbers, parameters, strict=False)}

    def like(path: str, tensor: torch.Tensor) -> torch.Tensor | None:
        part, _, rest = path.partition(".")
        number, _, key = rest.partition(".")
        parameter = by_number.get(number) if part == "state" else None
        if parameter is None:
            return None
        there = optimizer.state.get(parameter, {}).get(key)
        if isinstance(there, torch.Tensor) and there.shape == tensor.shape:
            return there
        return parameter if parameter.shape == tensor.shape or tensor.is_meta else None

    return like
