"""What a group of the configuration was set to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["option_of", "selected"]


def selected(key: str, node: Mapping[str, Any], overrides: list[str]) -> Any:
    """Return the name of the option that a group of the configuration has."""
    group = key.replace(".", "/")
    typed = [text.partition("=")[2] for text in overrides if text.partition("=")[0].lstrip("+") == group]
    if typed:
        return typed[-1].strip("[]")
    target = node.get("_target_")
    if not isinstance(target, str):
        return ",".join(node) if all(isinstance(each, Mapping) for each in node.values()) else str(dict(node))
    return option_of(key, target)


def option_of(group: str, target: str) -> str:
    """Return what an option of a group is called whose class is known: of task, train.tasks.gpt.GPTTask is gpt."""
    name = target.rpartition(".")[2]
    words = "".join(f"_{each.lower()}" if _begins_word(name, at) else each.lower() for at, each in enumerate(name))
    return words.strip("_").removesuffix(f"_{group.rpartition('.')[2]}")


def _begins_word(name: str, at: int) -> bool:
    """Whether a word of a class's name begins there: TwoLayerNet, GPTTask; a letter that ends it is no word, AdamW."""
    before, after = name[:at][-1:], name[at + 1 : at + 2]
    return name[at].isupper() and (after.islower() or (bool(after) and (before.islower() or before.isdigit())))
