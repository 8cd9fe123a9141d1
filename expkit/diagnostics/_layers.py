"""The linear layers that a diagnostic looks at, chosen by patterns of their names, and their turns in an interval."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from expkit.errors import ConfigError

__all__ = ["choose_layers", "linear_layers", "take_turns"]

#: So many names are said in one line.
MAX_NAMES = 20


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return dotted name -> layer of every nn.Linear, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def choose_layers(model: nn.Module, patterns: Sequence[str], key: str) -> dict[str, nn.Linear]:
    """Return the linear layers whose dotted names match one of `patterns`, as in a shell: `block?.attn.*`.

    Args:
        model: the layers are searched in it.
        patterns: at least one.
        key: of the configuration, for the message.

    Raises:
        ConfigError: a pattern matches none; the message names those that there are.
    """
    layers = linear_layers(model)
    if not layers:
        raise ConfigError(f"{key}: there is no nn.Linear layer in {type(model).__name__}")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            names = ", ".join(list(layers)[:MAX_NAMES])
            more = f" and {len(layers) - MAX_NAMES} more" if len(layers) > MAX_NAMES else ""
            raise ConfigError(f"{key}={pattern}: matches none of the linear layers of the model: {names}{more}")
    return {name: layer for name, layer in layers.items() if any(fnmatchcase(name, each) for each in patterns)}


def take_turns(costs: Mapping[str, float], parts: int) -> dict[str, int]:
    """Return name -> part, from 0, so that the parts cost about the same: the dearest first, to the cheapest part."""
    heap = [(0.0, part) for part in range(parts)]
    turns = {}
    for name in sorted(costs, key=lambda name: -costs[name]):
        cost, part = heap[0]
        turns[name] = part
        heapq.heapreplace(heap, (cost + costs[name], part))
    return turns
