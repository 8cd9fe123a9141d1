"""Keeping keys and tokens out of what a run writes down."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MASK", "mask_arguments", "mask_secrets", "mask_text"]

MASK = "***"

_NAMES = r"(api_?key|key|secret|token|password|passwd|credentials?|authorization|webhook)"
_SECRET = re.compile(rf"(^|[_.\-/]){_NAMES}($|[_.\-/])", re.IGNORECASE)
#: `{api_key: ...}` inside of an argument; an interpolation is no secret.
_INSIDE = re.compile(rf"""(\b|_){_NAMES}(["']?\s*[:=]\s*)(?!["']?\$\{{)("[^"]*"|'[^']*'|[^\s,}}\]]+)""", re.IGNORECASE)
#: `https://user:password@host`, and `Bearer abc`: a password or a token by its place.
_BY_PLACE = re.compile(r"(://[^\s/@:]*:(?=[^\s/@]+@)|\bBearer\s+)[^\s@\"',]+", re.IGNORECASE)
#: Shorter values of secret-sounding variables (`KEY=1`) are found in any text.
_LEAST = 8


def mask_secrets(value: Any, name: str = "") -> Any:
    """Return a copy of a nested configuration with the values of secret-sounding keys replaced by `***`.

    Only texts are masked: `max_tokens: 100` stays, and so do empty values and interpolations (`${oc.env:KEY}`), which
    hold no secret.
    """
    if isinstance(value, Mapping):
        return {key: mask_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_arguments([item])[0] if _is_override(item) else mask_secrets(item, name) for item in value]
    if isinstance(value, str) and value and not value.startswith("${") and _SECRET.search(name):
        return MASK
    return value


def _is_override(item: Any) -> bool:
    """Whether an element of a list is an override (`a.b=1`), as Hydra's own files list them."""
    return isinstance(item, str) and re.match(r"[+~]*[\w./@]+=", item) is not None


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with the values of secret-sounding names replaced by `***`.

    Known forms: `key=value`, `--key=value`, `--key value`, and `key: value` inside of an argument.
    """
    masked: list[str] = []
    secret_follows = False
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if secret_follows and not argument.startswith("-"):
            masked.append(MASK)
        elif equals and mask_secrets(value, key.lstrip("+-~")) == MASK:
            masked.append(f"{key}={MASK}")
        else:
            masked.append(_INSIDE.sub(rf"\1\2\3{MASK}", argument))
        secret_follows = not equals and argument.startswith("-") and bool(_SECRET.search(argument.lstrip("-")))
    return masked


def mask_text(text: str) -> str:
    """Return a text, an error's say, with what looks like a secret replaced by `***`.

    Known are the forms of `mask_arguments`, passwords in addresses, `Bearer ...`, and the values of this process's
    secret-sounding environment variables.
    """
    for name, value in os.environ.items():
        if len(value) >= _LEAST and _SECRET.search(name):
            text = text.replace(value, MASK)
    return _INSIDE.sub(rf"\1\2\3{MASK}", _BY_PLACE.sub(rf"\1{MASK}", text))
