"""From entries of a journal to curves, many at a time: a million records in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expkit.plots.curve import Curve
from expkit.record import RESERVED

__all__ = ["add_entries"]

_NO_METRIC = RESERVED - {"time", "epoch"} | {""}
_NUMBERS = {int, float}
_OF_SERIES = {*_NUMBERS, type(None)}

#: Places of entries, steps and values.
_Part = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


def add_entries(entries: Sequence[Mapping[str, Any]], curve: Callable[[str], Curve | None]) -> dict[str, float]:
    """Add what entries hold to curves, and return their last values.

    Metrics, `time` and `epoch` are at their step; of a series there is a value for each step.

    Where an entry has a series of a metric, which is every step's value, its single value is left out.

    Args:
        entries: of a journal, decoded, in their order.
        curve: returns the curve of a metric, made if it is new; None if that is of no interest.
    """
    parts: dict[str, list[_Part]] = {}
    last: dict[str, float] = {}
    for name, part in _columns(entries):
        parts.setdefault(name, []).append(part)
    for name, found in parts.items():
        if len(found) == 1:
            _, steps, values = found[0]
        else:
            places, steps, values = (np.concatenate(each) for each in zip(*found, strict=True))
            order = np.argsort(places, kind="stable")
            steps, values = steps[order], values[order]
        wanted = curve(name)
        if wanted is not None:
            wanted.extend(steps, values)
        last[name] = float(values[-1])
    return last


def _columns(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, _Part]]:
    """Return the columns of the tables that entries with the same names form: they are taken at C speed."""
    tables: dict[tuple[str, ...], list[int]] = {}
    for place, entry in enumerate(entries):
        tables.setdefault(tuple(entry), []).append(place)
    found = []
    for names, chosen in tables.items():
        rows = [entries[place] for place in chosen]
        places, steps = np.array(chosen), _floats([row["step"] for row in rows])
        series = [_series_in(row) for row in rows] if "series" in names else None
        columns = zip(*(row.values() for row in rows), strict=True)
        for name, column in zip(names, columns, strict=True):
            if name == "series":
                for place, row, held in zip(chosen, rows, series or (), strict=True):
                    found += _of_series(place, float(row["step"]), held)
            elif name not in _NO_METRIC:
                keep = _kept(name, column, series)
                if keep is None:
                    found.append((name, (places, steps, _floats(column))))
                elif keep:
                    values = _floats([column[index] for index in keep])
                    found.append((name, (places[keep], steps[keep], values)))
    return found


def _kept(name: str, column: Sequence[Any], series: Sequence[Mapping[str, Any]] | None) -> list[int] | None:
    """Return which places of a column are drawn, None for all: numbers, and no single value of a series."""
    numbers = set(map(type, column)) <= _NUMBERS
    if numbers and series is None:
        return None
    return [
        index
        for index, value in enumerate(column)
        if type(value) in _NUMBERS and (series is None or name not in series[index])
    ]


def _of_series(place: int, step: float, series: Mapping[str, Sequence[Any]]) -> list[tuple[str, _Part]]:
    found = []
    for name, values in series.items():
        steps = step + np.arange(1 - len(values), 1, dtype=float)
        found.append((name, (np.full(len(values), place), steps, _floats(values))))
    return found


def _series_in(row: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the series of an entry, as far as they are any: somebody else's journal may mean something else by it."""
    series = row["series"]
    return {
        name: values
        for name, values in (series.items() if isinstance(series, dict) else ())
        if isinstance(values, list) and values and set(map(type, values)) <= _OF_SERIES
    }


def _floats(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return numbers as floats; None is NaN, and an integer beyond all floats infinite."""
    try:
        return np.array(values, float)
    except OverflowError:
        return np.array([_float(value) for value in values])


def _float(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
