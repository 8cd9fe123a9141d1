"""How a record becomes a line of JSON and comes back.

A line is flat: `{"step": 10, "epoch": 1, "time": 1.7e9, "train_loss": 0.5, ...}`. JSON has no NaN, so a value that is
not finite is written as null, and `"nonfinite"` says what it was: `{"train_loss": "NaN"}`. Values inside `"details"`
and `"series"` are named there by their JSON Pointer (RFC 6901): `{"/series/train_loss/3": "Infinity"}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from expkit.lenient_json import parse_json
from expkit.record import RESERVED, Record

__all__ = ["decode", "encode", "is_volatile", "stable", "to_record"]

_ENDLESS = 1 << 63  # no such step was ever written: JSON writers take 64 bits

_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(record: Record) -> bytes:
    """Return the journal line of `record`, with its newline."""
    metrics, details, series = record.metrics, record.details, record.series
    entry: dict[str, Any] = {"step": record.step, "epoch": record.epoch, "time": record.time, **metrics}
    if details:
        entry["details"] = details
    if series:
        entry["series"] = {name: list(values) for name, values in series.items()}
    # One sum instead of a test per value: it is finite unless a value is not (or they overflow together).
    if details or series or not math.isfinite(sum(metrics.values())):
        nonfinite = dict(_nonfinite(record))
        if nonfinite:
            entry["nonfinite"] = nonfinite
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes) -> dict[str, Any]:
    """Return the entry that `line` holds, non-finite values restored.

    Bare `NaN` and `Infinity`, which other tools write though JSON has no such words, are read as well.

    Raises:
        ValueError: the line is not a journal entry (torn, say).
    """
    entry = parse_json(line)
    if not isinstance(entry, dict) or type(entry.get("step")) is not int or abs(entry["step"]) >= _ENDLESS:
        raise ValueError("not a journal entry: no object with an integer step")
    nonfinite = entry.pop("nonfinite", None)
    if nonfinite is not None:
        try:
            for name, word in nonfinite.items():
                _restore(entry, name, _NAMES[word])
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"not a journal entry: nonfinite names what is not there ({error!r})") from error
    return entry


def to_record(entry: Mapping[str, Any]) -> Record:
    """Return the record that a decoded entry was made from. Another program may have meant something else by a name."""
    epoch, moment, details, series = (entry.get(name) for name in ("epoch", "time", "details", "series"))
    return Record(
        step=entry["step"],
        epoch=epoch if isinstance(epoch, int) else 0,
        time=moment if isinstance(moment, int | float) else 0.0,
        metrics={name: value for name, value in entry.items() if name not in RESERVED},
        details=details if isinstance(details, dict) else {},
        series=series if isinstance(series, dict) else {},
    )


def is_volatile(name: str) -> bool:
    """Whether a metric differs from run to run by nature: times, speeds, and what the machine was doing."""
    return name.startswith(("time", "gpu/", "cpu/", "memory/", "process/")) or name.endswith(
        ("_time_ms", "_per_sec", "memory_allocated_mb")
    )


def stable(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return `entry` without its volatile names: equal for two runs that did the same."""
    return {name: value for name, value in entry.items() if not is_volatile(name)}


def _nonfinite(record: Record) -> Iterator[tuple[str, str]]:
    for name, value in record.metrics.items():
        if not math.isfinite(value):
            yield name, _word(value)
    for name, values in record.series.items():
        if not math.isfinite(sum(values)):
            yield from _nonfinite_leaves(values, f"/series/{_escape(name)}")
    if record.details:
        yield from _nonfinite_leaves(record.details, "/details")


def _nonfinite_leaves(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, float):
        if not math.isfinite(value):
            yield pointer, _word(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _nonfinite_leaves(item, f"{pointer}/{_escape(key)}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _nonfinite_leaves(item, f"{pointer}/{index}")


def _restore(entry: dict[str, Any], name: str, value: float) -> None:
    if entry.get(name, 0) is None:  # a metric; its name may itself begin with a slash
        entry[name] = value
        return
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in name.removeprefix("/").split("/")]
    place: Any = entry
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place[part]
    place[int(last) if isinstance(place, list) else last] = value


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
