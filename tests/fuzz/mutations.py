"""Inputs that are nearly right: what a real run has written, with a few changes, and bytes that nobody has written."""

from __future__ import annotations

import contextlib
import functools
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

__all__ = ["Container", "inputs"]

#: What stands in the place of a value, or anywhere.
TOKENS = (
    *(b"", b"null", b"true", b"0", b"-1", b"1e999", b"-1e300", b"NaN", b"-Infinity", b"1e-320", b"0.1.2"),
    *(b"9223372036854775808", b"-9223372036854775809", b"1" + b"0" * 400, b"9" * 5000, b"1e308", b"4294967296"),
    *(b"{}", b"[]", b"[null]", b'{"":{}}', b'{"step":{"step":1}}', b"[" * 300 + b"]" * 300, b'{"a":' * 1200),
    *(b"[" * 850 + b"]" * 850, b'{"a":' * 850 + b"1" + b"}" * 850),
    *(b'""', b'"x"', b'"\\ud800"', b'"\\u0000"', b'"../../x"', b'"\xff\xfe"', b'"2026-13-99T99:99"', b'"99999-01-01"'),
    *(
        b'"' + b"y" * 3000 + b'"',
        b"\0" * 64,
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        "²½٣".encode(),
        b"\r",
        b"\n",
        b"\x1b[31m",
    ),
    *(b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\0\0\0\0\x80", b"PK\x05\x06", b'"NaN"', b'"series":', b'"nonfinite":'),
    *(b"step", b"=", b": ", b"|", b"inf", b"/", b".", b"&a ", b"*a", b"${a}", b"!!python/object:os.system", b"- "),
)
_VALUE = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\b(?:true|false|null)\b|\{\}|\[\]')
#: Zeros change nothing, so that what Hypothesis makes of a failure has few changes; nor do half of the others.
_OPERATIONS = (
    *("none",) * 10,
    *("value", "value", "swap", "flip", "cut", "drop", "repeat", "insert", "line", "lines", "splice", "word"),
)
_CHANGES = 5


@dataclass(frozen=True)
class Container:
    """A format with checksums or lengths around its parts: these are changed, and packed as they should be.

    Attributes:
        unpack: returns the parts of a file.
        pack: returns the file with these parts; ValueError if it cannot hold them.
    """

    unpack: Callable[[bytes], Sequence[bytes]]
    pack: Callable[[Sequence[bytes]], bytes]


def inputs(
    seeds: Sequence[bytes], container: Container | None = None, count: int = 20
) -> st.SearchStrategy[Iterator[bytes]]:
    """Return a strategy for contents of a file: of one of `seeds` with changes mostly, of anything now and then.

    There are `count` of them in an example, made of bytes that are drawn at once: to draw each takes Hypothesis longer
    than most readers take to read it.
    """
    size = 3 + 5 * _CHANGES
    recipes = st.binary(min_size=count * size, max_size=count * size)
    make = functools.partial(_made, tuple(seeds), container)
    return recipes.map(lambda drawn: (make(drawn[at : at + size]) for at in range(0, len(drawn), size)))


def _made(seeds: Sequence[bytes], container: Container | None, recipe: bytes) -> bytes:
    how, which, part, changes = recipe[0], recipe[1], recipe[2], recipe[3:]
    if how > 248:
        return changes[: which % 25]
    if how > 232:
        return b"".join(TOKENS[each % len(TOKENS)] for each in changes[: which % 25])
    data = seeds[which % len(seeds)]
    if container is not None and how & 3:
        parts = list(container.unpack(data))
        parts[part % len(parts)] = _changed(parts[part % len(parts)], parts, changes)
        with contextlib.suppress(ValueError):  # it cannot hold that
            return container.pack(parts)
    return _changed(data, seeds, changes)


def _changed(data: bytes, others: Sequence[bytes], changes: bytes) -> bytes:
    """Return `data` after each change: what is done, with which token, where and how far, in 1, 2 and 2 bytes."""
    for kind, first, second in struct.iter_unpack("<BHH", changes):
        operation = _OPERATIONS[kind % len(_OPERATIONS)]
        data = _one(data, others, operation, first, second, TOKENS[(second ^ kind) % len(TOKENS)])
    return data


def _one(data: bytes, others: Sequence[bytes], operation: str, first: int, second: int, token: bytes) -> bytes:
    """Return `data` after one change; `first` and `second` are parts of 65536 of what there is."""
    at = first * (len(data) + 1) >> 16
    end = min(len(data), at + (second & 63 if second & 64 else second * (len(data) + 1 - at) >> 16))
    match operation:
        case "none":
            return data
        case "value" | "swap":
            spans = _values(data)
            if not spans:
                return data[:at] + token + data[at:]
            begin, stop = spans[first * len(spans) >> 16]
            if operation == "swap":
                token = data[slice(*spans[second * len(spans) >> 16])]
            return data[:begin] + token + data[stop:]
        case "flip":
            return data[:at] + bytes([data[at] ^ 1 << (second & 7)]) + data[at + 1 :] if at < len(data) else data
        case "cut":
            return data[:at]
        case "drop":
            return data[:at] + data[end:]
        case "repeat":
            return data[:end] + data[at:end][:4096] * (1 + second % 5) + data[end:]
        case "insert":
            return data[:at] + token + data[at:]
        case "line" | "lines":
            lines = data.splitlines(keepends=True) or [b""]
            one, other = first * len(lines) >> 16, second * len(lines) >> 16
            if operation == "line":
                lines.insert(one, lines[other])
            else:
                lines[one], lines[other] = lines[other], lines[one]
            return b"".join(lines)
        case "splice":
            other = others[second % len(others)]
            return data[:at] + other[second * len(other) >> 16 :][:4096]
    word = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40)[second & 7].to_bytes(8, "little")
    length = (1, 2, 4, 8)[second >> 3 & 3]
    return data[:at] + word[:length] + data[at + length :]


@functools.lru_cache(maxsize=64)
def _values(data: bytes) -> list[tuple[int, int]]:
    return [match.span() for match in _VALUE.finditer(data)]
