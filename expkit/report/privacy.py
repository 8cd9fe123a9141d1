"""What a report must not tell: keys and tokens, and whose folders runs lay in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expkit.secrets import mask_secrets, mask_text

__all__ = ["private", "private_tree", "without_home"]

#: The home of whoever trained, who need not be the one who writes the report.
_HOME = re.compile(r"(?<![\w.~-])(?:/home/[^/\s\"':,;)\]]+|/Users/[^/\s\"':,;)\]]+|/root)(?=[/\s\"':,;)\]]|$)")


def private(text: str) -> str:
    """Return a text with secrets replaced by `***`, and home folders by `~`."""
    return without_home(mask_text(text))


def private_tree(value: Any, name: str = "") -> Any:
    """Return plain JSON values with secrets and home folders replaced, in names too."""
    if isinstance(value, Mapping):
        return {without_home(str(key)): private_tree(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [private_tree(item, name) for item in mask_secrets(value, name)]
    masked = mask_secrets(value, name)
    return private(masked) if isinstance(masked, str) else masked


def without_home(text: str) -> str:
    """Return a text with the folders of people at home replaced by `~`."""
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(rf"(?<![\w.~-]){re.escape(home)}(?=[/\s\"':,;)\]]|$)", "~", text)
    return _HOME.sub("~", text)
