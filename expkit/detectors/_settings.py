"""Arguments that several detectors take: whole numbers, shares, and thresholds that may depend on the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping

from expkit.errors import ConfigError

__all__ = ["ByStep", "number", "whole"]


class ByStep:
    """A number that may depend on the step: `{0: 0.5, 5000: 0.3}` is 0.5 at first, and 0.3 from step 5000 on.

    Args:
        key: of the setting, for messages.
        value: a number, or first step -> number. Before the first step named the first number holds.
        above: what each number must be above, or None.

    Raises:
        ConfigError: it is neither, or a number cannot be.
    """

    def __init__(self, key: str, value: float | Mapping[int, float], above: float | None = 0.0) -> None:
        if not isinstance(value, Mapping):
            value = {0: value}
        try:
            given = {int(step): each for step, each in value.items()}
        except (TypeError, ValueError):
            given = {}
        if not given:
            raise ConfigError(f"{key}={dict(value)}: give a number, or steps and numbers, {{0: 0.5, 5000: 0.3}}")
        for each in given.values():
            number(key, each, above=above)
        self._steps = sorted(given)
        self._values = [float(given[step]) for step in self._steps]

    def at(self, step: int) -> float:
        """Return the number that holds at `step`."""
        if len(self._values) == 1:
            return self._values[0]
        return self._values[max(0, bisect_right(self._steps, step) - 1)]


def number(key: str, value: float, above: float | None = None, at_least: float | None = None) -> float:
    """Return `value` if it is a finite number, above or at least what is given.

    Raises:
        ConfigError: it is not.
    """
    plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not plain or (above is not None and value <= above) or (at_least is not None and value < at_least):
        limit = "" if above is None else f" above {above:g}"
        limit += "" if at_least is None else f" of at least {at_least:g}"
        given: object = value
        shown = repr(given) if isinstance(given, str) else given  # a text may look like a number
        raise ConfigError(f"{key}={shown}: it must be a number{limit}")
    return float(value)


def whole(key: str, value: int, at_least: int) -> int:
    """Return `value` as an int if it is a whole number, at least `at_least`.

    Raises:
        ConfigError: it is not.
    """
    plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not plain or value != int(value) or value < at_least:
        raise ConfigError(f"{key}={value}: it must be a whole number, at least {at_least}")
    return int(value)
