"""A Record is what one step has to say: made once, never changed, the same for journal, trackers and detectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RESERVED", "Record", "make_record", "to_number", "to_numbers", "to_plain"]

#: Keys of a journal line that are not metrics.
RESERVED = frozenset({"step", "epoch", "time", "details", "series", "nonfinite"})


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one step.

    Attributes:
        step: optimizer updates done so far.
        epoch: the epoch that the step belongs to, counted from 1; 0 where there are no epochs.
        time: seconds since 1970 when the record was made.
        metrics: metric name -> int or float (NaN and infinities allowed).
        details: structured values that are no metrics (cluster centres, ...): plain JSON values.
        series: name -> one value for each step since the previous record, so that nothing between two
            records is hidden by an average.
    """

    step: int
    epoch: int
    time: float
    metrics: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)


def make_record(
    step: int,
    metrics: Mapping[str, Any],
    epoch: int = 0,
    details: Mapping[str, Any] | None = None,
    series: Mapping[str, Sequence[float]] | None = None,
) -> Record:
    """Convert values once and return the record of `step`, made now.

    Raises:
        TypeError: a metric is no single number.
        ValueError: a metric has a name that journal lines use for something else.
    """
    return Record(
        step=int(step),
        epoch=int(epoch),
        time=time.time(),
        metrics=to_numbers(metrics),
        details=to_plain(details or {}),
        series=series or {},
    )


def to_numbers(metrics: Mapping[str, Any]) -> dict[str, int | float]:
    """Convert metrics to plain numbers.

    Raises:
        TypeError: a metric is no single number.
        ValueError: a metric has a name that journal lines use for something else.
    """
    taken = sorted(RESERVED.intersection(metrics))
    if taken:
        raise ValueError(f"a metric cannot be called {taken[0]!r}: journal lines use that name; choose another")
    return {str(name): to_number(name, value) for name, value in metrics.items()}


def to_number(name: str, value: Any) -> int | float:
    """Convert a metric once, before any copy is sent: numbers, numpy scalars, and one-element tensors or arrays.

    Raises:
        TypeError: `value` is no single number; the message names the metric.
    """
    if type(value) is float:
        return value
    try:
        number = value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):
        shape = tuple(getattr(value, "shape", ()))
        raise TypeError(
            f"metric {name!r} has shape {shape}, but a metric is one number: reduce it first (mean(), say), "
            "or pass it in details"
        ) from None
    if isinstance(number, bool):
        return int(number)
    if isinstance(number, int | float):
        # Subclasses (numpy.float64 is one) become the plain type; JSON writers take integers up to 64 bits.
        return int(number) if isinstance(number, int) and abs(number) < 2**63 else float(number)
    raise TypeError(f"metric {name!r} is {type(value).__name__}, but a metric is a number: pass it in details")


def to_plain(value: Any) -> Any:
    """Convert a structured value to plain JSON types: dict with str keys, list, str, int, float, bool, None.

    Tensors and arrays become nested lists, integers beyond 64 bits (which JSON writers refuse) texts. Non-finite
    floats are kept: who writes JSON decides.

    Raises:
        TypeError: something in it has no plain form.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    if hasattr(value, "tolist"):  # torch tensors, numpy arrays and scalars
        return to_plain(value.tolist())
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no plain JSON form")
