"""What goes into a checkpoint: taken out of wrapped models, made plain, checked to be loadable again."""

from __future__ import annotations

import dataclasses
import enum
import io
import sys
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from expkit.checkpoints.shards import split
from expkit.errors import ResumeError, UserError
from expkit.record import to_plain
from expkit.secrets import mask_secrets

__all__ = ["StateError", "bare_name", "check_loadable", "collect_state", "load_model_state", "plain_config", "unwrap"]


class StateError(UserError, TypeError):
    """A value that a checkpoint cannot hold: the message says where it is and what it is."""


def collect_state(
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_history: Any,
    config: Any,
    extra: Mapping[str, Any],
    sharded: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what one checkpoint holds, checked to be loadable. Tensors are not copied.

    With `sharded` tensors that are spread over the ranks (DTensor) are returned beside it, see `shards.split`.

    Raises:
        StateError: a value could not be loaded again; the message names its path.
        UserError: a name in `extra` is one of the checkpoint's own.
    """
    state = {
        "model_state_dict": unwrap(model).state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "step": step,
        "loss_history": loss_history,
        "config": mask_secrets(plain_config(config)),
    }
    taken = state.keys() & extra.keys()
    if taken:
        raise UserError(f"{', '.join(sorted(taken))} is a checkpoint's own: give that extra state another name")
    own = state.keys()
    state, shards = split(state | dict(extra)) if sharded else (state | dict(extra), {})
    for name, value in state.items():
        check_loadable(value, name if name in own else f"extra.{name}")
    return state, shards


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DataParallel, DistributedDataParallel and `torch.compile`, in any order."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile; its class is private
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def load_model_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a `model_state_dict` into `model`, whichever of the two is of a wrapped model (see `unwrap`).

    Raises:
        ResumeError: it is the state of another model; the message names the keys.
    """
    target = unwrap(model)
    own = target.state_dict()
    if state.keys() != own.keys():
        state = _renamed(state, own)
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        raise ResumeError(f"the checkpoint does not fit the model: {error}") from error


def _renamed(state: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the entries of `state` the names that `own` has for them; unknown ones keep theirs."""
    names = {bare_name(name): name for name in own}
    if len(names) != len(own):
        return state
    renamed = OrderedDict((names.get(bare_name(name), name), value) for name, value in state.items())
    if hasattr(state, "_metadata"):  # versions of the modules' formats, by module name
        versions = {bare_name(name): version for name, version in state._metadata.items()}
        own_modules = getattr(own, "_metadata", {})
        renamed._metadata = {  # type: ignore[attr-defined]
            name: versions[bare_name(name)] for name in own_modules if bare_name(name) in versions
        }
    return renamed if len(renamed) == len(state) else state


def bare_name(name: str) -> str:
    """Return a name without what wrappers put into it: a leading `module`, and `_orig_mod` anywhere."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    return ".".join(parts[1:] if parts[:1] == ["module"] else parts)


def plain_config(value: Any, path: str = "config") -> Any:
    """Return a configuration as plain JSON types.

    Accepted at any depth: OmegaConf containers (resolved, but what reads the environment stays an
    interpolation, as it may be a secret), dataclasses, `argparse.Namespace`, paths, enums (by name), tensors,
    devices, dtypes.

    Raises:
        StateError: something else is in it; the message says where.
    """
    value = _unpacked(value)
    if isinstance(value, Mapping):
        return {_key(key): plain_config(item, f"{path}.{_key(key)}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_config(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((plain_config(item, f"{path} (a member)") for item in value), key=repr)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, str | torch.device | torch.dtype):
        return str(value)
    try:
        return to_plain(value)
    except TypeError:
        raise StateError(
            f"{path} is {_type_name(value)}, but a configuration holds plain JSON values: "
            "give a text or a number that stands for it, or leave it out"
        ) from None


def _key(key: Any) -> str:
    return key.name if isinstance(key, enum.Enum) else str(key)


def _unpacked(value: Any) -> Any:
    omegaconf = sys.modules.get("omegaconf")  # who holds such a container has imported it; the library need not
    if omegaconf is not None and omegaconf.OmegaConf.is_config(value):
        raw = omegaconf.OmegaConf.to_container(value, resolve=False)
        try:
            resolved = omegaconf.OmegaConf.to_container(value, resolve=True)
        except omegaconf.errors.OmegaConfBaseException:  # a broken interpolation is no reason to lose a checkpoint
            return raw
        return _without_environment(raw, resolved)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return vars(value) if isinstance(value, Namespace) else value


def _without_environment(raw: Any, resolved: Any) -> Any:
    if isinstance(raw, dict):
        return {key: _without_environment(item, resolved[key]) for key, item in raw.items()}
    if isinstance(raw, list):
        return [_without_environment(item, resolved[index]) for index, item in enumerate(raw)]
    return raw if isinstance(raw, str) and "oc.env" in raw else resolved


_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})


def check_loadable(value: Any, path: str) -> None:
    """Check that `value`, saved, can be loaded with `weights_only=True`.

    Exact types decide: `numpy.float64` is a float to Python, but not to the loader.

    Raises:
        StateError: it cannot; the message names the dotted path of the offending value.
    """
    kind = type(value)
    if kind in _SCALARS:
        return
    if kind in (dict, OrderedDict, Counter):
        for key, item in value.items():
            check_loadable(key, f"{path} (the key {key!r})")
            check_loadable(item, f"{path}.{key}")
    elif kind in (list, tuple, set):
        if not _SCALARS.issuperset(map(type, value)):  # at C speed, for histories of a million losses
            for index, item in enumerate(value):
                check_loadable(item, f"{path}[{index}]")
    elif not (kind in (torch.Tensor, nn.Parameter) and not value.__dict__):
        _try_out(value, path)


def _try_out(value: Any, path: str) -> None:
    """Let torch itself decide on anything rare: subclasses of tensors, dtypes, devices."""
    try:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception as error:  # pickling runs code of whatever class this is
        raise StateError(
            f"{path} is {_type_name(value)}, which cannot be loaded again safely (weights_only=True): "
            "convert it to tensors, numbers, texts, lists and dicts before it is saved"
        ) from error


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
