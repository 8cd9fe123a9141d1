"""Adaptive layers in a model that trains: made, switched together with the optimizer, and brought back on a resume."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from expkit.checkpoints.state import bare_name, unwrap
from expkit.diagnostics._layers import choose_layers
from expkit.errors import ConfigError, UserError
from expkit.lowrank.layer import AdaptiveLinear
from expkit.svd import FULL, LOW_RANK

__all__ = ["convert", "restore_modes", "switch"]

log = logging.getLogger("expkit")


def convert(model: nn.Module, patterns: str | Sequence[str] = "*", key: str = "layers") -> list[str]:
    """Make linear layers adaptive, in place: their parameters, names, hooks and forward pass stay as they are.

    Args:
        model: has the layers; one that is adaptive already stays as it is.
        patterns: of their dotted names, as in a shell, in a list or separated by commas.
        key: of the configuration, for messages.

    Returns:
        The names of the adaptive layers.

    Raises:
        ConfigError: a pattern matches no linear layer; the weight of one that matches is tied to another parameter; or
            none of those that match can be split.
    """
    model = unwrap(model)
    given = patterns.split(",") if isinstance(patterns, str) else patterns
    chosen = choose_layers(model, [each.strip() for each in given if each.strip()], key)
    users: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), []).append(name)
    left_out, adaptive = [], {}
    for name, layer in chosen.items():
        if not isinstance(layer, AdaptiveLinear):
            if type(layer) is not nn.Linear or min(layer.weight.shape) < 2:
                left_out.append(name)
                continue
            tied = users[id(layer.weight)]
            if len(tied) > 1:
                raise ConfigError(
                    f"{key}: {' and '.join(tied)} are one weight, which cannot be split: leave {name} out"
                )
        adaptive[name] = layer
    if left_out:
        only = f"{key}: {', '.join(left_out)}: only a plain nn.Linear with 2 rows and columns or more can be split"
        if not adaptive:
            raise ConfigError(only)
        log.warning("%s: left out", only)
    for name, layer in adaptive.items():
        layer.__class__ = AdaptiveLinear  # as torch.nn.utils.parametrize does: who holds the layer keeps it
        cast(AdaptiveLinear, layer).name = name
    return list(adaptive)


def switch(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, name: str, mode: str, r: int | None = None
) -> bool:
    """Switch one layer, and replace its parameters in the optimizer, between two updates.

    The new parameters stand in the old ones' group and place, so that the order does not depend on the past; their
    moments begin anew. The state of all other parameters is left alone.

    Args:
        model: has the layer. What wraps it (`torch.compile`, say) is looked through.
        optimizer: trains it; None if nothing does yet.
        name: dotted name of an adaptive layer.
        mode: FULL or LOW-RANK.
        r: minor components that LOW-RANK trains.

    Returns:
        Whether anything changed: not where the layer is in that mode already.

    Raises:
        UserError: there is no such adaptive layer, no such mode, no such r; the optimizer's state cannot be begun anew
            for a part of its parameters; or the model is wrapped in DistributedDataParallel.
    """
    layer = _adaptive(model, name)
    if mode not in (FULL, LOW_RANK):
        raise UserError(f"{name}: mode={mode}: choose {FULL} or {LOW_RANK}")
    if layer.mode == mode:
        return False
    if mode == LOW_RANK and r is None:
        raise UserError(f"{name}: {LOW_RANK} needs r, the number of minor components to train")
    _check(model, optimizer)
    old = _matrices(layer)
    if mode == LOW_RANK:
        assert r is not None
        layer.switch_to_low_rank(r)
    else:
        layer.switch_to_full()
    _replace(optimizer, name, old, layer)
    return True


def restore_modes(
    model: nn.Module, state_dict: Mapping[str, Any], optimizer: torch.optim.Optimizer | None = None
) -> list[str]:
    """Bring the layers of a new model to the modes that a `model_state_dict` is of, before that is loaded.

    A plain nn.Linear that was LOW-RANK becomes adaptive. The values come with `load_state_dict`, the optimizer's with
    its own: its parameters then have the same order as when it was saved.

    Args:
        model: as built, wrapped or not.
        state_dict: of the same model at the checkpoint, wrapped or not.
        optimizer: made for `model` already; one that is made afterwards needs nothing.

    Returns:
        The names of the layers that changed their mode or their r.
    """
    keys = {bare_name(key): value for key, value in state_dict.items()}
    inner, changed = unwrap(model), []
    for path, layer in inner.named_modules():
        name = bare_name(path) if path else path
        prefix = f"{name}." if name else ""
        if type(layer) is nn.Linear and f"{prefix}lora_A" in keys and f"{prefix}principal" in keys:
            convert(inner, [path])
        if isinstance(layer, AdaptiveLinear):
            old, before = _matrices(layer), layer.r
            layer.take_mode(keys, prefix)
            if layer.r != before:
                _check(model, optimizer)
                _replace(optimizer, path, old, layer)
                changed.append(path)
    return changed


def _adaptive(model: nn.Module, name: str) -> AdaptiveLinear:
    try:
        layer: nn.Module | None = unwrap(model).get_submodule(name)
    except AttributeError:
        layer = None
    if not isinstance(layer, AdaptiveLinear):
        raise UserError(f"{name}: no adaptive layer of the model: expkit.lowrank.convert makes one of an nn.Linear")
    return layer


def _matrices(layer: AdaptiveLinear) -> dict[str, nn.Parameter]:
    """Return name -> parameter of what is trained instead of, or as, the weight."""
    return {name: parameter for name, parameter in layer.named_parameters() if name != "bias"}


def _check(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Refuse what would go on training the parameters of before, or fail at the next step."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise UserError("a layer cannot be switched inside DistributedDataParallel, which keeps the old parameters")
    if isinstance(optimizer, torch.optim.Adagrad | torch.optim.LBFGS):
        raise UserError(
            f"{type(optimizer).__name__} makes its state when it is made, so a layer cannot be switched: "
            "train with Adam, AdamW or SGD"
        )


def _replace(
    optimizer: torch.optim.Optimizer | None, name: str, old: Mapping[str, nn.Parameter], layer: AdaptiveLinear
) -> None:
    """Put the layer's parameters where `old` stood in the optimizer."""
    if optimizer is None:
        return
    gone = {id(parameter) for parameter in old.values()}
    new, first = _matrices(layer), True
    for group in optimizer.param_groups:
        places = [place for place, parameter in enumerate(group["params"]) if id(parameter) in gone]
        if not places:
            continue
        for key, values in (("params", list(new.values())), ("param_names", [f"{name}.{each}" for each in new])):
            if key in group:
                kept = [value for place, value in enumerate(group[key]) if place not in places]
                group[key] = [*kept[: places[0]], *(values if first else ()), *kept[places[0] :]]
        if first and _begins_with_all(optimizer, group):
            for parameter in new.values():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        first = False
    for parameter in old.values():
        optimizer.state.pop(parameter, None)


def _begins_with_all(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> bool:
    """Whether the momentum must be there for all parameters once it is there for one: in fused SGD, it must."""
    begun = any("momentum_buffer" in optimizer.state.get(parameter, {}) for parameter in group["params"])
    return begun and isinstance(optimizer, torch.optim.SGD) and bool(group.get("fused"))
