"""JSON as other programs write it, and as nobody should: read, or refused with a ValueError and nothing else."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

__all__ = ["dump_json", "parse_json"]

_DIGITS = 19  # of a number that surely is one of 64 bits
_FLOATS = 1023  # bits of an integer that surely is a float
_DEEPEST = 200  # lists in lists: orjson writes 254


def parse_json(text: bytes | str) -> Any:
    """Return a JSON value. NaN and infinities may stand in it; an integer beyond 64 bits becomes a float.

    Raises:
        ValueError: it is none, or not all of it; it is nested too deeply, or no text in UTF-8.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # Not from bytes: Python would take halves of characters, and other encodings.
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    if not text or text.isspace():
        raise ValueError("nothing is there")
    try:
        found = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\ud" in text.lower():
        json.dumps(found, ensure_ascii=False).encode()  # ValueError: half a character, which nobody could write
    return found


def dump_json(value: Any, option: int = 0) -> bytes:
    """Return a value as JSON; what is nested too deeply for it, some 250 times, becomes a text, a huge integer a float.

    Raises:
        TypeError: there is a text in it that is none in UTF-8, of a file's name say.
    """
    try:
        return orjson.dumps(value, option=option, default=str)
    except TypeError:
        return orjson.dumps(_shallow(value), option=option, default=str)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


def _shallow(value: Any, depth: int = 0) -> Any:
    if type(value) is int and abs(value) >= 1 << 63:
        endless = math.inf if value > 0 else -math.inf
        return endless if value.bit_length() > _FLOATS else float(value)
    if depth == _DEEPEST:
        return _text_of(value) if isinstance(value, dict | list | tuple) else value
    if isinstance(value, dict):
        return {key: _shallow(item, depth + 1) for key, item in value.items()}
    return [_shallow(item, depth + 1) for item in value] if isinstance(value, list | tuple) else value


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except RecursionError:
        return "nested too deeply"
