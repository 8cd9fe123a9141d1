"""All that a run's files tell while it runs, read on from where the last reading ended, in bounded memory."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.journal import JournalReader
from expkit.plots.columns import add_entries
from expkit.plots.curve import Curve
from expkit.reading.detail import Detail
from expkit.reading.event_feed import EventFeed
from expkit.reading.history import read_history
from expkit.reading.index import Index, load_index, save_index
from expkit.record import RESERVED
from expkit.status import read_status

__all__ = ["RunFeed"]

_BATCH = 4096
_INDEX_EVERY = 50_000  # records
_RECENT = 256
#: Bins of a curve, by how many metrics there are: at most about 64 MiB of them in all.
_FINE, _MEDIUM, _COARSE = 8192, 2048, 512
#: With fewer bins than that to show a range, its part of the journal is read again.
_FEW_BINS = 300


class RunFeed:
    """Reads one run: its journal, its events, its status.

    Nothing has to be there yet, anything may be replaced, cut back or removed between two readings. A directory that
    has only a results.json is read from that.

    Args:
        run: its directory.
        index: whether a sidecar index is used and kept.
        name: how it is called; its id, if nothing is given.

    Attributes:
        name: how it is called.
        curves: metric -> its curve over steps. `time` (seconds since 1970) and `epoch` are among them.
        last: metric -> its last value; `step`, `time` and `epoch` among them.
        recent: (step, time) of the last 256 entries.
        records: entries read.
        generation: how often everything began anew.
        version: goes up whenever there is something new.
        events: the last 1000, oldest first, as in events.jsonl.
        status: what status.json says; {} without it.
        config: the configuration that the run was trained with; {} if it is not known.
        caught_up: whether all that is there was read.
    """

    def __init__(self, run: RunDir, index: bool = True, name: str = "") -> None:
        self.run = run
        self.name = name or run.id
        self.curves: dict[str, Curve] = {}
        self.last: dict[str, float] = {}
        self.recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self.records = 0
        self.generation = 0
        self.version = 0
        self.status: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.caught_up = False
        self._reader = JournalReader(run.metrics)
        self._detail = Detail(run.metrics)
        self._read_generation = 0
        self._broken = 0  # before this reader
        self._uses_index = index
        self._indexed = 0
        self._events = EventFeed([run.events, run.logs / "watch_events.jsonl"])
        self._stamps: dict[Path, tuple[int, int] | None] = {}
        if index:
            self._take_index()

    @property
    def broken(self) -> int:
        """How many lines of the journal could not be read."""
        return self._broken + self._reader.broken

    @property
    def metrics(self) -> list[str]:
        """The names of its metrics, sorted."""
        return sorted(set(self.curves) - RESERVED)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The last events of the run and of a watcher beside it, in the order of their time."""
        return self._events.entries

    def refresh(self, within: float = math.inf) -> bool:
        """Read what is new, for about so many seconds at most. Return whether there was anything.

        Raises:
            OSError: the files are there, and cannot be read now.
        """
        before = self.version
        self._read_small_files()
        self.version += self._events.refresh()
        self._read_journal(within)
        if not self.records and self.caught_up:
            self._read_results()
        return self.version != before

    def close(self) -> None:
        """Close all files, and keep the index."""
        self._keep_index(least=1)
        self._reader.close()
        self._events.close()

    @property
    def duration(self) -> float:
        """Seconds from the first record to the last one."""
        bounds = self.curves["time"].bounds() if "time" in self.curves else None
        return bounds[1] - bounds[0] if bounds is not None else 0.0

    def seconds(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seconds since the first record at which steps were done."""
        return self._along("time", steps, from_zero=True)

    def epochs(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the epochs at steps, with fractions."""
        return self._along("epoch", steps, from_zero=False)

    def samples(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how many samples had been trained with at steps."""
        return self._along("samples", steps, from_zero=False)

    def detail(self, name: str, first: float, last: float) -> Curve | None:
        """Return a metric's curve from about one step to another, read from the journal again.

        None where the bins tell as much, or where it is too much to read.
        """
        curve = self.curves[name]
        bins, width = curve.resolution((first, last))
        if width == 1 or bins >= _FEW_BINS:
            return None
        found = self._detail.curves(first, last, self.records)
        return found.get(name) if found is not None else None

    def _along(self, name: str, steps: NDArray[np.float64], from_zero: bool) -> NDArray[np.float64]:
        at, values = self.curves[name].line() if name in self.curves else ([], [])
        if not at:
            return np.full(len(steps), math.nan)
        known = np.maximum.accumulate(values)  # where a clock was set back it stands still
        return np.interp(steps, at, known) - (values[0] if from_zero else 0.0)

    def _curve(self, name: str) -> Curve:
        found = self.curves.get(name)
        if found is None:
            many = len(self.curves)
            bins = _FINE if many < 128 else _MEDIUM if many < 512 else _COARSE
            found = self.curves[name] = Curve(bins=bins)
        return found

    def _read_journal(self, within: float) -> None:
        until = time.monotonic() + within
        self.caught_up = False
        for batch in self._batches():
            self._take(batch)
            if time.monotonic() >= until:
                return
        self.caught_up = True
        self._keep_index(_INDEX_EVERY)

    def _batches(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the new entries. Those of a journal that has begun anew meanwhile are dropped."""
        batch: list[dict[str, Any]] = []
        for entry in self._reader:
            if self._reader.generation != self._read_generation:
                self._begin_anew()
                batch = []
            batch.append(entry)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if self._reader.generation != self._read_generation:  # cut back to nothing
            self._begin_anew()
            batch = []
        if batch:
            yield batch

    def _take(self, batch: list[dict[str, Any]]) -> None:
        if not self.records:
            self.curves, self.last = {}, {}  # of a results.json
        self._add(batch)
        self.records += len(batch)
        self.version += 1

    def _add(self, entries: list[dict[str, Any]]) -> None:
        self.last |= add_entries(entries, self._curve)
        for entry in entries[-_RECENT:]:
            self.last["step"] = entry["step"]
            moment: Any = entry.get("time")
            if type(moment) in (int, float) and math.isfinite(moment):
                self.recent.append((entry["step"], moment))

    def _begin_anew(self) -> None:
        self._read_generation = self._reader.generation
        self._broken = 0
        self.curves, self.last, self.records, self._indexed = {}, {}, 0, 0
        self._events.clear_if_gone()
        self.recent.clear()
        self._detail.clear()
        self.generation += 1
        self.version += 1

    def _take_index(self) -> None:
        index = load_index(self.run.metrics)
        if index is not None and self._reader.go_on_from(index.place):
            self.curves = dict(index.curves)
            self.last = {name: value for name, value in index.last.items() if value is not None}  # JSON has no NaN
            self.records = self._indexed = index.records
            self._broken = index.broken
            self.recent.extend(index.recent)
            self.version += 1

    def _keep_index(self, least: int) -> None:
        if not self._uses_index or self.records - self._indexed < max(least, _BATCH):
            return
        place = self._reader.place()
        if place is not None:
            made = Index(place, self.records, self.broken, self.last, list(self.recent), self.curves)
            save_index(self.run.metrics, made)
            self._indexed = self.records

    def _read_small_files(self) -> None:
        if self._changed(self.run.status):
            self.status = read_status(self.run.status)
            self.version += 1
        if self._changed(self.run.config):
            try:
                content = read_json(self.run.config).get("config")
            except UserError:
                content = None
            self.config = content if isinstance(content, dict) else {}
            self.version += 1

    def _read_results(self) -> None:
        """Take the history that a results.json has: of a run without a journal."""
        if not self._changed(self.run.results):
            return
        try:
            entries = read_history(self.run.results)
        except (OSError, ValueError, RecursionError):
            return  # written just now: next time
        self.curves, self.last = {}, {}
        self._add(entries)
        self.version += 1

    def _changed(self, path: Path) -> bool:
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
        except OSError:
            stamp = None
        before, self._stamps[path] = self._stamps.get(path), stamp
        return stamp != before
