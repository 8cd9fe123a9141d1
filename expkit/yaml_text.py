"""YAML that somebody has written: read without executing anything, and refused where it would grow without end."""

from __future__ import annotations

from typing import Any

from expkit.errors import ConfigError

__all__ = ["check_aliases", "parse_yaml"]

_MOST = 100_000  # values
_LONGEST = 1 << 18  # characters: PyYAML takes seconds for so many


def parse_yaml(text: str, source: str) -> Any:
    """Return the value that a text stands for.

    Args:
        text: YAML.
        source: how the error names it.

    Raises:
        ConfigError: it is none; it is larger than 256 KiB, or its aliases make too much of it.
    """
    import yaml  # type: ignore[import-untyped]

    if len(text) > _LONGEST:
        raise ConfigError(f"{source}: it is larger than {_LONGEST >> 10} KiB, which no settings are")
    check_aliases(text, source)
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ConfigError(f"{source} is no valid YAML: nested too deeply") from None
    except (ValueError, yaml.YAMLError) as error:  # ValueError: a date such as 2026-99-99
        raise ConfigError(f"{source} is no valid YAML: {' '.join(str(error).split())}") from None


def check_aliases(text: str, source: str) -> None:
    """Refuse a text whose aliases (`*name`) make more than 100,000 values of it, of which a few lines make billions.

    A text that is no YAML passes: who reads it says so.

    Raises:
        ConfigError: it is such a text.
    """
    if "&" not in text or "*" not in text:
        return
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # aliases are the node that they stand for
        size = _size(root, {}) if root is not None else 0
    except (ValueError, yaml.YAMLError, RecursionError):
        return
    if size > _MOST:
        raise ConfigError(f"{source}: its aliases (*name) make more than {_MOST:,} values of it: write it out")


def _size(node: Any, known: dict[int, float]) -> float:
    """Return how many values a node and all below it are, each alias counted as what it stands for."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # one that holds itself
        inside = node.value if isinstance(node.value, list) else ()
        parts = [part for each in inside for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
