"""What a run's journal says of single steps: losses, gradient norms, updates that were skipped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from expkit.experiment import RunDir
from expkit.journal import read_journal

__all__ = ["first_nonfinite", "seen_at", "skipped_steps"]

#: What is known of every step, by its name in the journal.
_SERIES = ("train_loss", "gradient_norm", "skipped")


def seen_at(files: RunDir, step: int) -> tuple[dict[str, float], int]:
    """Return what the journal holds of `step`, name -> value, and its last step, 0 if it is empty."""
    seen: dict[str, float] = {}
    last = 0
    for number, values in _steps(files):
        last = max(last, number)
        if number == step:
            seen = values
    return seen, last


def first_nonfinite(files: RunDir, names: tuple[str, ...] = _SERIES[:2]) -> tuple[int, str] | None:
    """Return the first step whose loss or gradient norm is not finite, and which of the two it is; None without one.

    Where the journal has none, events of the kind `nonfinite` are asked.
    """
    for step, values in _steps(files):
        for name in names:
            if not math.isfinite(values.get(name, 0.0)):
                return step, name
    for event in read_journal(files.events) if files.events.exists() else ():
        if event.get("kind") == "nonfinite":
            return int(event["step"]), "an event"
    return None


def skipped_steps(files: RunDir, last: int | None = None) -> frozenset[int]:
    """Return the steps, up to `last`, whose update a guard has skipped."""
    steps = (step for step, values in _steps(files) if values.get("skipped"))
    return frozenset(step for step in steps if last is None or step <= last)


def _steps(files: RunDir) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield each step with what is known of it, in order."""
    for entry in read_journal(files.metrics) if files.metrics.exists() else ():
        found: dict[int, dict[str, float]] = {}
        for name in _SERIES:
            for step, value in _values(entry, name):
                found.setdefault(step, {})[name] = value
        yield from sorted(found.items())


def _values(entry: Mapping[str, Any], name: str) -> Iterator[tuple[int, float]]:
    series = (entry.get("series") or {}).get(name)
    if series:
        yield from enumerate(series, start=entry["step"] - len(series) + 1)
    elif name in entry:
        yield entry["step"], entry[name]
