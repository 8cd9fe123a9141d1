"""What an exception says to a user: the setting that it is about, or the line of their own code that raised it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from expkit.errors import UserError
from expkit.place import place

__all__ = ["told", "typed_keys", "unresolved"]


def told(error: BaseException, key: str, values: Any, what: str = "") -> str:
    """Return what an error says, as one line that begins with a configuration key.

    Args:
        error: what a constructor or another function of a component raised.
        key: the configuration key of the component.
        values: the settings below that key.
        what: what failed, if it is not the constructor.
    """
    text = str(error) if isinstance(error, UserError) else [*str(error).splitlines(), ""][0]
    if isinstance(error, UserError) and re.match(rf"{key.partition('.')[0]}\b", text):
        return text
    values = values if isinstance(values, Mapping | DictConfig) else {}
    if isinstance(error, ValueError) and re.split(r"\W", text)[0] in values:  # said of an argument, by its name
        return f"{key}.{text}"
    where = "" if isinstance(error, UserError) else place(error)
    kind = type(error).__name__ if where or not isinstance(error, ValueError | RuntimeError) else ""
    shown = ": ".join(filter(None, [what, kind, text]))
    return f"{_subject(key, values, text)}: {shown}" + (f" ({where})" if where else "")


def unresolved(error: BaseException) -> str:
    """Return what an error of OmegaConf's says of an interpolation, without what it says of itself."""
    text = re.sub(r"^\w+ raised while resolving interpolation: ", "", [*str(error).splitlines(), ""][0]).strip('"')
    text = re.sub(r"^Interpolation key '(.*)' not found$", r"it refers to \1, which is not there", text)
    default = ": a cluster's file should begin with the line `defaults: [default]`" if " cluster." in text else ""
    return text + default


def typed_keys() -> set[str]:
    """Return the keys that were typed, where there is a command line."""
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return {str(each).partition("=")[0].lstrip("+") for each in typed}


def _subject(key: str, values: Any, text: str) -> str:
    """Return the one setting, KEY=VALUE, whose value `text` speaks of, as "Invalid learning rate: -1" does; else `key`.

    Of several such settings it is the one that was typed.
    """
    words = re.sub(r"[\[\](){},;:']", " ", text).split()
    found = {name: value for name, value in _flat(values, key) if any(str(each) in words for each in _items(value))}
    if len(found) > 1:
        typed = typed_keys()
        found = {name: value for name, value in found.items() if name in typed}
    return "".join(f"{name}={value}" for name, value in found.items()) if len(found) == 1 else key


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping | DictConfig):
        yield key, value
        return
    for name in value:
        if not str(name).startswith("_"):
            yield from _flat(value[name], f"{key}.{name}")


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | ListConfig) else [value]
