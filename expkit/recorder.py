"""The recorder: components add what they have to say about a step, and one Record goes out to everybody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from expkit.record import Record, make_record, to_numbers, to_plain

__all__ = ["Recorder"]


class Recorder:
    """Collects metrics until the step's record is emitted.

    There is one record per step, because trackers drop a second row for a step. `add` may be called from any thread:
    what is `late` (a GPU's state, measured by a thread) rides on the next record, whenever that is.

    Args:
        sinks: called with each record, in order: the journal first, since it is the truth.
    """

    def __init__(self, sinks: Sequence[Callable[[Record], object]] = ()) -> None:
        self._sinks = list(sinks)
        self._lock = threading.Lock()
        self._metrics: dict[str, float] = {}
        self._details: dict[str, Any] = {}
        self._series: dict[str, Sequence[float]] = {}
        self._due = False
        self.latest: dict[str, float] = {}

    def connect(self, *sinks: Callable[[Record], object]) -> None:
        """Add sinks after those there are."""
        self._sinks += sinks

    def add(
        self,
        metrics: Mapping[str, Any],
        details: Mapping[str, Any] | None = None,
        series: Mapping[str, Sequence[float]] | None = None,
        late: bool = False,
    ) -> None:
        """Add to the next record. Values are converted here, once; a name said twice keeps the later value.

        Raises:
            TypeError: a metric is no single number.
            ValueError: a metric has a name that journal lines use for something else.
        """
        numbers = to_numbers(metrics)
        plain = to_plain(details) if details else {}
        with self._lock:
            self._metrics.update(numbers)
            self._details.update(plain)
            self._series.update(series or {})
            self._due = self._due or not late

    def collected(self) -> dict[str, float]:
        """Return the metrics that the next record will have, as far as they have been added."""
        with self._lock:
            return dict(self._metrics)

    def taken(self) -> dict[str, float]:
        """Return the metrics that have been added, for somebody else's recorder: this one forgets them."""
        with self._lock:
            metrics, self._metrics, self._details, self._series = self._metrics, {}, {}, {}
            self._due = False
        return metrics

    def pending(self) -> bool:
        """Whether a record should be made: values that are `late` do not ask for one of their own."""
        return self._due

    def emit(self, step: int, epoch: int) -> Record:
        """Make the record of `step` of what was added, hand it to every sink, and return it."""
        with self._lock:
            metrics, self._metrics = self._metrics, {}
            details, self._details = self._details, {}
            series, self._series = self._series, {}
            self._due = False
        record = make_record(step, metrics, epoch, details, series)
        self.latest.update(record.metrics)
        for sink in self._sinks:
            sink(record)
        return record
