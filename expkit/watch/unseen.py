"""Which detectors had nothing to look at: that they say nothing is then no good news."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from expkit.detectors.base import Detector
from expkit.record import Record

__all__ = ["HOW", "Names", "said_of", "unseen"]

#: Behind it, where the names are another trainer's.
HOW = "; --fields NAME=PATH says what is called how"

_SHOWN = 12


class Names:
    """The first few names of metrics that records had."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, record: Record) -> None:
        """Take a record."""
        if len(self._names) <= _SHOWN:
            self._names |= dict.fromkeys(record.metrics)

    def shown(self) -> list[str]:
        """Return them, and ... if there are more."""
        return [*islice(self._names, _SHOWN), *(["..."] if len(self._names) > _SHOWN else [])]


def unseen(detectors: Mapping[str, Detector]) -> dict[str, list[str]]:
    """Return the names of those that had nothing to look at -> the metrics that they watch, the first that is there."""
    return {name: list(metrics) for name, detector in detectors.items() if (metrics := detector.unseen())}


def said_of(found: Mapping[str, Sequence[str]], names: Sequence[str], so_far: bool = False) -> str:
    """Return in one line what `unseen` found; "" if that is nothing.

    Args:
        found: detector -> the metrics that it watches.
        names: metrics that there are.
        so_far: there may be more records.
    """
    watchers: dict[str, list[str]] = {}
    for name, metrics in found.items():
        *others, last = metrics
        watchers.setdefault(f"{', '.join(others)} or {last}" if others else last, []).append(name)
    if not watchers:
        return ""
    each = [f"{', '.join(who)} (no record has {metrics})" for metrics, who in watchers.items()]
    return f"nothing to look at{' so far' if so_far else ''} for {'; '.join(each)}; there are {', '.join(names)}"
