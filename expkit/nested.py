"""Nested configurations, and their values at dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

__all__ = ["MISSING", "flatten", "value_at"]


class _Missing:
    """The value of a key that a run has not."""

    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """Return what a nested mapping has at a dotted key, MISSING if nothing."""
    found: Any = tree
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return MISSING
        found = found[part]
    return found


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration as {"optimizer.lr": 0.02}; lists and empty mappings stay values.

    Lists that are nested too deeply to be written as JSON, more than some 250 times, are texts.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if _is_shallow(value) else str(value)
    return flat


def _is_shallow(value: Any) -> bool:
    if not isinstance(value, list | tuple):
        return True
    try:
        orjson.dumps(value, default=str)
    except TypeError as error:
        return "Recursion" not in str(error)
    return True
