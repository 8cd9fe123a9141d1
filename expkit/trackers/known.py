"""The trackers by their names, for commands beside a run. A class that a run directory names is never used."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any

from expkit.conf import CONF_DIR
from expkit.errors import ConfigError, describe
from expkit.trackers.base import Tracker
from expkit.yaml_text import parse_yaml

__all__ = ["check_package", "known", "make_tracker", "option_of", "parameters"]

_PACKAGE = "expkit.trackers."


@functools.cache
def known() -> Mapping[str, str]:
    """Return name -> module:Class of expkit's own trackers: those that conf/tracker has a file for."""
    found = {}
    for file in sorted((CONF_DIR / "tracker").glob("*.yaml")):
        node: Any = parse_yaml(file.read_text(encoding="utf-8"), str(file))
        target = str(node.get("_target_")) if isinstance(node, dict) else ""
        if target.startswith(_PACKAGE):
            found[file.stem] = ":".join(target.rsplit(".", 1))
    return found


def option_of(tracker: Tracker) -> str:
    """Return the ` --to ...` with which `expkit replay` finds such a tracker, or nothing if it knows it by name."""
    kind = type(tracker)
    target = f"{kind.__module__}:{kind.__qualname__}"
    if target in known().values():
        return ""
    return f" --to {'package.module:Class' if kind.__module__ == '__main__' else target}"


def make_tracker(name: str, arguments: Mapping[str, Any]) -> Tracker:
    """Return the tracker called `name`, ready to start.

    Args:
        name: one of `known`, or package.module:Class of one's own.
        arguments: what its constructor gets.

    Raises:
        ConfigError: there is no such tracker, its package is missing, or it does not take the arguments.
    """
    accepted = parameters(name)
    for argument in arguments:
        if argument not in accepted:
            raise ConfigError(f"{name}.{argument}: {name} has no such setting; it has {', '.join(accepted) or 'none'}")
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
    module, _, attribute = known().get(name, name).partition(":")
    if not attribute:
        raise ConfigError(
            f"there is no tracker {name!r}: choose from {', '.join(known())}, or name package.module:Class"
        )
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name} cannot be imported: {describe(error)}") from None
    if not (isinstance(kind, type) and issubclass(kind, Tracker)):
        raise ConfigError(f"{name} is no tracker: derive it from expkit.trackers.Tracker")
    return kind
