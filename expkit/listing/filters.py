"""What `--filter` takes: NAME OPERATOR VALUE. Nothing in it is executed."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from expkit.errors import UserError
from expkit.lenient_json import dump_json
from expkit.listing.columns import AGES, TIMES, value_of
from expkit.listing.entry import RunEntry
from expkit.nested import MISSING

__all__ = ["Filter", "parse_filter"]

_FORM = re.compile(r"\s*(?P<name>[^\s=<>!~]+)\s*(?P<operator>!=|!~|<=|>=|==|=|<|>|~)\s*(?P<value>.*?)\s*", re.DOTALL)
_SPAN = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>s|min|m|h|d|w)")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<": lambda one, other: one < other,
    ">": lambda one, other: one > other,
    "<=": lambda one, other: one <= other,
    ">=": lambda one, other: one >= other,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition.

    Attributes:
        name: of a column.
        operator: = != < <= > >= ~ (contains, whatever the case) !~
        value: as it was typed; of = and != several, one of which it must be.
    """

    name: str
    operator: str
    value: str

    def matches(self, run: RunEntry) -> bool:
        """Whether a run meets it. What a run has not is unequal to everything, and neither less nor more."""
        found = value_of(run, self.name)
        if self.operator in ("=", "!="):
            wanted = (self.value, *self.value.split(","))  # a list has commas of its own
            return any(_same(found, each) for each in wanted) == (self.operator == "=")
        if self.operator in ("~", "!~"):
            return (self.value.lower() in _text(found).lower()) == (self.operator == "~")
        number = _number(found)
        if number is not None and self.name in AGES:
            number = time.time() - number
        return number is not None and _SIGNS[self.operator](number, self.limit)

    @property
    def limit(self) -> float:
        """The number behind < or >; of a time, seconds; of the progress, a fraction or per cent.

        Raises:
            ValueError: it is none.
        """
        span = _SPAN.fullmatch(self.value) if self.name in TIMES else None
        if span:
            return float(span["number"]) * _UNITS[span["unit"]]
        if self.name == "progress" and self.value.endswith("%"):
            return float(self.value[:-1]) / 100
        return float(self.value)


def parse_filter(text: str) -> Filter:
    """Return the condition that was typed.

    Raises:
        UserError: it is none.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UserError(
            f"--filter {text}: write NAME=VALUE, NAME!=VALUE, NAME~TEXT, NAME<NUMBER or NAME>NUMBER (in quotes)"
        )
    operator = "=" if match["operator"] == "==" else match["operator"]
    made = Filter(match["name"], operator, match["value"])
    if operator in _SIGNS:
        try:
            limit = made.limit
        except ValueError:
            limit = math.nan
        if math.isnan(limit):
            wanted = "a time, 90s, 2h or 3d say," if made.name in TIMES else "a number"
            raise UserError(f"--filter {text}: {operator} wants {wanted} behind it")
    return made


def _same(found: Any, typed: str) -> bool:
    """Whether a value is what was typed: as a number (0.001 is 1e-3), as true, false or null, or as a text."""
    if found is MISSING:
        return False
    typed = typed.strip()
    number = _number(found)
    if number is not None:
        try:
            return number == float(typed) or (math.isnan(number) and typed.lower() == "nan")
        except ValueError:
            return False
    return _text(found).lower() == typed.lower()


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    if value is MISSING:
        return ""
    return value if isinstance(value, str) else dump_json(value).decode()
