"""The trackers by their names, for commands beside a run. A class that a run directory names is never used."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any

from expkit.errors import ConfigError, describe
from expkit.trackers.base import Tracker

__all__ = ["KNOWN", "check_package", "make_tracker", "parameters"]

KNOWN = {
    "tensorboard": "expkit.trackers.tensorboard:TensorBoardTracker",
    "trackio": "expkit.trackers.trackio:TrackioTracker",
    "wandb": "expkit.trackers.wandb:WandbTracker",
}


def make_tracker(name: str, arguments: Mapping[str, Any]) -> Tracker:
    """Return the tracker called `name`, ready to start.

    Args:
        name: one of `KNOWN`, or package.module:Class of one's own.
        arguments: what its constructor gets.

    Raises:
        ConfigError: there is no such tracker, its package is missing, or it does not take the arguments.
    """
    known = parameters(name)
    for argument in arguments:
        if argument not in known:
            raise ConfigError(f"{name}.{argument}: {name} has no such setting; it has {', '.join(known) or 'none'}")
    kind = _locate(name)
    check_package(name, kind)
    try:
        tracker = kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{name} cannot be made: {describe(error)}") from None
    tracker.check()
    return tracker


def check_package(name: str, kind: type[Tracker]) -> None:
    """Look, without importing it, whether the package that a tracker `requires` is there.

    Raises:
        ConfigError: it is not installed.
    """
    if kind.requires is not None and importlib.util.find_spec(kind.requires) is None:
        raise ConfigError(f"{name} needs the package {kind.requires}, which is not installed: pip install it")


def parameters(name: str) -> dict[str, str]:
    """Return what the constructor of the tracker called `name` takes, and of which type, as it is written there.

    Raises:
        ConfigError: there is no such tracker.
    """
    found = inspect.signature(_locate(name)).parameters.values()
    return {each.name: each.annotation if isinstance(each.annotation, str) else str(each.annotation) for each in found}


def _locate(name: str) -> type[Tracker]:
    module, _, attribute = KNOWN.get(name, name).partition(":")
    if not attribute:
        raise ConfigError(f"there is no tracker {name!r}: choose from {', '.join(KNOWN)}, or name package.module:Class")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name} cannot be imported: {describe(error)}") from None
    if not (isinstance(kind, type) and issubclass(kind, Tracker)):
        raise ConfigError(f"{name} is no tracker: derive it from expkit.trackers.Tracker")
    return kind
