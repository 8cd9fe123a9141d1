"""Hydra's and OmegaConf's errors as one line: what was wrong, where, and what to do instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from expkit.errors import UserError
from train.build import CONF_DIR, MULTI_SELECT, group_options, without_target

__all__ = ["explain"]

_NO_OPTION = re.compile(r"Could not (?:find|load) '([\w/]+)/([^'/]+)'")
_NO_KEY = re.compile(r"Could not override '([^']+)'")
_GRAMMAR = ("LexerNoViableAlt", "mismatched input", "token recognition", "no viable alternative", "extraneous input")
_NOISE = ("full_key:", "object_type=", "Set the environment", "reference_type=", "Config search path", "provider=")


def explain(error: BaseException) -> str:
    """Return `error` as one line."""
    text = str(error)
    if isinstance(error, UserError):
        return " ".join(text.split())  # what torch says of a model that does not fit has several lines
    option = _NO_OPTION.search(text)
    if option:
        return _no_option(*option.groups())
    if any(word in text for word in _GRAMMAR):
        return f"{text.splitlines()[0]}; a value with = , ( [ {{ ~ or a space needs quotes twice: 'key=\"a, b\"'"
    ambiguous = re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", text)
    if ambiguous:
        key, value = ambiguous.groups()
        return (
            f"{key}={value} has a comma: for one run per value add -m, for a list write {key}=[{value}], "
            f"for a text '{key}=\"{value}\"'"
        )
    key_error = _NO_KEY.search(text)
    if key_error:
        return _no_key(key_error[1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(_NOISE)) or type(error).__name__


def _no_option(group: str, option: str) -> str:
    options = group_options(group)
    close = difflib.get_close_matches(option, options, n=1)
    hint = f"did you mean {close[0]}? There are" if close else "choose from"
    listed = f" (several are a list: [{option}])" if "," in option else ""
    none = f"; {group}=[] is none" if group in MULTI_SELECT else ""
    return f"{group}={option}: there is no such option{listed}; {hint} {', '.join(options) or 'none yet'}{none}"


def _no_key(key: str) -> str:
    group, _, rest = key.partition(".")
    if group in MULTI_SELECT and rest:
        return without_target(f"{group}.{rest.split('.')[0]}", {})
    known = list(_keys(OmegaConf.load(CONF_DIR / "config.yaml")))
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    hint = f"did you mean {close[0]}? --cfg job shows all" if close else "--cfg job shows all of them"
    return f"{key} is no key of this configuration: {hint}"


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in node:
            if key not in ("defaults", "hydra"):
                yield from _keys(node._get_node(key), f"{prefix}.{key!s}" if prefix else str(key))
    if prefix:
        yield prefix
