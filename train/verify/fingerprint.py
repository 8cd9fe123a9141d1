"""Any value as texts by path, equal if and only if the values are: what two runs are compared by."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from expkit.rng import rng_state
from train.verify.compare import GENERATOR

__all__ = ["fingerprint", "generators", "hidden_state", "optimizer_state", "weights"]

_SCALARS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, np.generic)
_CODE = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
_ELEMENTS = 1 << 24  # of a tensor that is looked at for hidden state; what has more is data
_LEAVES = 50_000  # that are looked at for hidden state; what comes after so many is data
#: Packages whose modules hold no state of the user's.
_OURS = ("builtins", "torch", "numpy", "expkit", "train", "functools", "collections")


def fingerprint(value: Any, path: str = "") -> dict[str, str]:
    """Return path -> text of every leaf in nested lists, tuples, mappings and objects.

    Args:
        value: tensors, arrays, numbers, texts, random generators, and whatever holds them.
        path: what the paths begin with.
    """
    return {name.removeprefix("."): text for name, text in _Walk()(value, path)}


def weights(model: nn.Module) -> dict[str, str]:
    """Return name -> text of all that the model's `state_dict` should hold: parameters and persistent buffers."""
    kept = model.state_dict(keep_vars=True).keys()
    named = [*model.named_parameters(), *((name, buffer) for name, buffer in model.named_buffers() if name in kept)]
    return {name: _tensor(value) for name, value in named}


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, str]:
    """Return text by parameter and key, from the optimizer itself: its `state_dict` may leave something out."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, str] = {}
    for parameter, state in optimizer.state.items():
        found |= _prefixed(f"{names.get(id(parameter), 'a parameter')}: ", fingerprint(state))
    for number, group in enumerate(optimizer.param_groups):
        values = {key: value for key, value in group.items() if key != "params"}
        found |= _prefixed(f"group {number}: ", fingerprint(values))
    return found


def generators() -> dict[str, str]:
    """Return the texts of python's, numpy's, torch's and each CUDA device's global generator."""
    state = rng_state()
    (version, words, gauss), (name, keys, *rest) = state["python"], state["numpy"]
    found = {
        "python": np.asarray(words).tobytes() + repr((version, gauss)).encode(),
        "numpy": keys.numpy().tobytes() + repr((name, rest)).encode(),
        "torch": state["torch"].numpy().tobytes(),
    }
    found |= {f"cuda:{number}": each.numpy().tobytes() for number, each in enumerate(state["cuda"])}
    return {name: f"state #{_digest(content)}" for name, content in found.items()}


def hidden_state(model: nn.Module, optimizer: Optimizer, scheduler: Any, objects: Mapping[str, Any]) -> dict[str, str]:
    """Return text by path of what a checkpoint does not hold: what a difference may come from.

    Args:
        model: attributes of its modules, and buffers that are not persistent.
        optimizer, scheduler: their attributes.
        objects: name -> object whose attributes are looked at: the task, its data. Global variables of the modules in
            which all these are defined are looked at too.
    """
    walk = _Walk({id(parameter): name for name, parameter in model.named_parameters()}, largest=_ELEMENTS)
    walk.pass_over(optimizer, model, *model.parameters())
    found: dict[str, str] = {}
    plain = nn.Module().__dict__.keys()
    for name, module in model.named_modules():
        kept = {key: value for key, value in vars(module).items() if key not in plain}
        kept |= {key: module._buffers[key] for key in module._non_persistent_buffers_set}
        found |= dict(walk(kept, f"model.{name}" if name else "model"))
    ordinary = vars(torch.optim.SGD([nn.Parameter(torch.zeros(1))])).keys()
    kept = {key: value for key, value in vars(optimizer).items() if key not in ordinary}
    found |= dict(walk(kept, "optimizer"))
    for name, each in {"scheduler": scheduler, **objects}.items():
        found |= dict(walk(each, name))
    for name in sorted({type(each).__module__ for each in (*model.modules(), optimizer, scheduler, *objects.values())}):
        if name.partition(".")[0] not in _OURS and name in sys.modules:
            variables = {key: value for key, value in vars(sys.modules[name]).items() if not key.startswith("__")}
            found |= dict(walk(variables, name))
    return found


class _Walk:
    """Yields (path, text) of all leaves of a value; each object once, and no more of them than are any use.

    Args:
        names: id of a parameter -> its name, for mappings that have parameters for keys.
        largest: elements of the largest tensor to look into; larger ones are told by their shapes.
    """

    def __init__(self, names: Mapping[int, str] | None = None, largest: int | None = None) -> None:
        self.names = names or {}
        self._seen: dict[int, Any] = {}  # with the objects themselves: the id of one that is gone is given again
        self._largest = largest
        self._left = _LEAVES

    def __call__(self, value: Any, path: str, depth: int = 8) -> Iterator[tuple[str, str]]:
        if isinstance(value, _SCALARS):
            yield path, repr(value)
        elif isinstance(value, _CODE) or id(value) in self._seen or depth < 0 or self._left < 0:
            return
        elif isinstance(value, torch.Tensor):
            yield path, _tensor(value) if self._digested(value.numel()) else str(value.shape)
        elif isinstance(value, np.ndarray):
            yield path, _array(value) if self._digested(value.size) else str(value.shape)
        elif (state := _generator_state(value)) is not None:
            yield (
                path,
                f"{GENERATOR} ({type(value).__module__}.{type(value).__name__}) #{_digest(repr(state).encode())}",
            )
        else:
            self.pass_over(value)
            for name, item in self._items(value):
                self._left -= 1
                yield from self(item, f"{path}{name}", depth - 1)

    def pass_over(self, *objects: Any) -> None:
        """Take no further look at these."""
        self._seen |= {id(each): each for each in objects}

    def _digested(self, size: int) -> bool:
        return self._largest is None or size <= self._largest

    def _items(self, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield what to add to the path, and the item, for all that `value` holds."""
        if isinstance(value, Mapping):
            for key, item in list(value.items()):
                yield _key(self.names.get(id(key), key)), item
        elif isinstance(value, set | frozenset):
            for number, item in enumerate(sorted(value, key=repr)):
                yield f" (member {number})", item
        elif isinstance(value, list | tuple):
            fields = getattr(value, "_fields", None)
            yield "'s length", len(value)
            for number, item in enumerate(value[: self._left]):
                yield f".{fields[number]}" if fields else f"[{number}]", item
        elif hasattr(value, "__dict__"):
            for key, item in vars(value).items():
                yield f".{key}", item
        else:
            text = repr(value)  # itertools.count(7), say
            yield "", text if " at 0x" not in text and len(text) < 200 else f"a {type(value).__name__}"


def _prefixed(prefix: str, texts: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{name}": text for name, text in texts.items()}


def _key(key: Any) -> str:
    if isinstance(key, str):
        return f".{key}" if key.isidentifier() else f"[{key}]"
    return f"[{key!r}]"


def _generator_state(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return [part.tolist() if isinstance(part, np.ndarray) else part for part in value.get_state(legacy=True)]
    return value.getstate() if isinstance(value, random.Random) else None


def _tensor(value: torch.Tensor) -> str:
    value = value.detach()
    shape = list(value.shape)
    kind = str(value.dtype).removeprefix("torch.")
    plain = value.to_dense() if value.layout is not torch.strided else value
    plain = plain.cpu().contiguous()
    return f"{kind}{shape}{_numbers(plain)} #{_digest(plain.flatten().view(torch.uint8).numpy())}"


def _numbers(value: torch.Tensor) -> str:
    """Return what a person can see a difference by."""
    if not value.numel():
        return ""
    if value.numel() == 1:
        return f" {value.item()!r}"
    if not value.dtype.is_floating_point:
        return f" beginning {', '.join(str(each) for each in value.flatten()[:4].tolist())}"
    first = ", ".join(f"{each:.7g}" for each in value.flatten()[:2].tolist())
    return f" norm {value.double().norm().item():.12g}, beginning {first}"


def _array(value: np.ndarray[Any, Any]) -> str:
    if value.dtype.hasobject:
        return f"{value.dtype}{list(value.shape)} #{_digest(repr(value).encode())}"
    first = ", ".join(str(each) for each in value.reshape(-1)[:4].tolist())
    return f"{value.dtype}{list(value.shape)} beginning {first} #{_digest(np.ascontiguousarray(value).tobytes())}"


def _digest(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()
