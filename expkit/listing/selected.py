"""What a group of the configuration was set to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["selected"]


def selected(key: str, node: Mapping[str, Any], overrides: list[str]) -> Any:
    """Return the name of the option that a group of the configuration has."""
    group = key.replace(".", "/")
    typed = [text.partition("=")[2] for text in overrides if text.partition("=")[0].lstrip("+") == group]
    if typed:
        return typed[-1].strip("[]")
    target = node.get("_target_")
    if not isinstance(target, str):
        return ",".join(node) if all(isinstance(each, Mapping) for each in node.values()) else str(dict(node))
    words = "".join(
        f"_{each.lower()}" if _begins_word(target, place) else each.lower() for place, each in _tail(target)
    )
    return words.strip("_").removesuffix(f"_{key.rpartition('.')[2]}")


def _tail(target: str) -> list[tuple[int, str]]:
    start = target.rfind(".") + 1
    return list(enumerate(target))[start:]


def _begins_word(text: str, place: int) -> bool:
    """Whether a word of a class's name begins there: TwoLayerNet, GPTTask."""
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    return text[place].isupper() and (before.islower() or before.isdigit() or after.islower())
