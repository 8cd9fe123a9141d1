"""results.json as a view of the journal: one entry per evaluation, built step by step and never held twice."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.config_tracker import ConfigTracker
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import is_there
from expkit.journal import JournalReader

__all__ = ["ResultsView"]

log = logging.getLogger("expkit")

_PICTURE = re.compile(r"visualizations/[^/]+_step_(?P<step>\d{1,18})\.png")
_SPEEDS = ("samples_per_sec", "tokens_per_sec")


class ResultsView:
    """Rebuilds results.json from the journal, at most every `interval` seconds.

    Args:
        run_dir: the run directory.
        diagnostics: names of the run's diagnostics, whose metrics go to an entry's `diagnostics`.
        by_epoch: an entry for each epoch, for a run without validation; else one for each evaluation.
        interval: least seconds between two writes; who writes asks `due` first.
        summarize: turns the means of an entry into what is reported: a perplexity is no mean of perplexities.
    """

    def __init__(
        self,
        run_dir: Path,
        diagnostics: Sequence[str] = (),
        by_epoch: bool = False,
        interval: float = 30.0,
        summarize: Callable[[dict[str, float]], Mapping[str, float]] | None = None,
    ) -> None:
        self._files = RunDir(run_dir)
        self._tracker = ConfigTracker(run_dir)
        self._history = _History(diagnostics, by_epoch, summarize or dict)
        self._reader = JournalReader(self._files.metrics)
        self._generation = 0
        self._broken = 0
        self._interval = interval
        self._earlier: list[str] | None = None
        self._written = -math.inf

    def due(self) -> bool:
        """Whether `interval` has passed since the last write."""
        return time.monotonic() - self._written >= self._interval

    def close(self) -> None:
        """Close the journal."""
        self._reader.close()

    def write(
        self,
        best: Mapping[str, Any],
        best_checkpoint: str | None,
        samples: Sequence[Any],
        elapsed: float,
    ) -> None:
        """Bring results.json up to date.

        Args:
            best: what was best so far (best_val_loss, best_step ...); becomes part of final_metrics.
            best_checkpoint: its checkpoint, relative to the run directory.
            samples: what the model made: texts, or paths of pictures. Without any, the pictures of them that an
                earlier start of the run has drawn stay.
            elapsed: seconds that the run took so far.
        """
        self._written = time.monotonic()
        for entry in self._reader:
            self._clear_if_anew()
            self._history.take(entry)
        self._clear_if_anew()  # the journal may have been cut back to nothing
        if self._reader.broken > self._broken:
            self._broken = self._reader.broken
            log.warning("%s: passed over %d broken line(s)", self._files.metrics, self._broken)
        self._tracker.save_results(
            final_metrics={**self._history.final(), **best, "total_time_seconds": round(elapsed, 3)},
            best_checkpoint=best_checkpoint,
            generation_samples=samples or self._drawn_before(),
            training_history=self._history.finished(),
        )

    def _drawn_before(self) -> list[str]:
        """Return the pictures that results.json has named, of steps that the run still has."""
        if self._earlier is None:
            try:
                said = self._tracker.load_results().get("generation_samples")
            except UserError:
                said = None
            self._earlier = [each for each in said if isinstance(each, str)] if isinstance(said, list) else []
        steps = ((name, _PICTURE.fullmatch(name)) for name in self._earlier)
        drawn = [name for name, match in steps if match is not None and int(match["step"]) <= self._history.step]
        return [name for name in drawn if is_there(self._files.root / name)]

    def _clear_if_anew(self) -> None:
        if self._reader.generation != self._generation:
            self._generation = self._reader.generation
            self._broken = 0
            self._history.clear()


class _History:
    """Turns journal entries into `{epoch, step, train, test, diagnostics}`, one for each evaluation."""

    def __init__(
        self,
        diagnostics: Sequence[str],
        by_epoch: bool,
        summarize: Callable[[dict[str, float]], Mapping[str, float]],
    ) -> None:
        self._by_epoch = by_epoch
        self._summarize = summarize
        # Of names that collide the first has the short one; the guides' entries are blob's.
        self._names = sorted(diagnostics, key=lambda name: name != "blob")
        self.clear()

    def clear(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._sums: dict[str, tuple[float, int]] = {}
        self._speeds: dict[str, tuple[float, int]] = {}
        self._samples = self._epoch = self.step = 0
        self._last: dict[str, Any] = {}
        self._diagnostics: dict[str, dict[str, Any]] = {name: {} for name in self._names}

    def take(self, entry: Mapping[str, Any]) -> None:
        if self._by_epoch and entry.get("epoch", 0) > self._epoch and self._sums:
            self._close({})
        self._epoch = entry.get("epoch", 0)
        weight = entry.get("samples", self._samples + 1) - self._samples
        self._samples += weight
        for name, value in entry.items():
            place = self._sums if name.startswith("train_") else self._speeds if name in _SPEEDS else None
            if place is not None and weight and isinstance(value, int | float):
                total, count = place.get(name, (0.0, 0))
                place[name] = total + value * weight, count + weight
        self._take_diagnostics(entry)
        self._last.update({name: value for name, value in entry.items() if isinstance(value, int | float)})
        self.step = entry["step"]
        test = {name.removeprefix("val_"): value for name, value in entry.items() if name.startswith("val_")}
        if test:
            self._close(test)

    def finished(self) -> list[dict[str, Any]]:
        """Return the entries, with the last epoch's where no evaluation closes it."""
        if self._by_epoch and self._sums:
            return [*self.entries, self._entry({})]
        return self.entries

    def _close(self, test: dict[str, Any]) -> None:
        self.entries.append(self._entry(test))
        self._sums, self._diagnostics = {}, {name: {} for name in self._names}

    def _entry(self, test: dict[str, Any]) -> dict[str, Any]:
        train = {name.removeprefix("train_"): total / count for name, (total, count) in self._sums.items()}
        if train:
            train |= self._summarize(dict(train))
        made = {"epoch": self._epoch, "step": self.step, "train": train, "test": test}
        return {**made, "diagnostics": self._without_prefix()}

    def final(self) -> dict[str, Any]:
        """Return the last value of each validation metric, and the mean speed."""
        final = {name: value for name, value in self._last.items() if name.startswith("val_")}
        if "val_perplexity" in self._last:
            final["perplexity"] = self._last["val_perplexity"]
        return final | {f"{name}ond": total / count for name, (total, count) in self._speeds.items()}

    def _take_diagnostics(self, entry: Mapping[str, Any]) -> None:
        for name, value in [*entry.items(), *entry.get("details", {}).items()]:
            whose, _, rest = name.partition("/")
            if whose in self._diagnostics:
                self._diagnostics[whose][rest or whose] = value

    def _without_prefix(self) -> dict[str, Any]:
        """Return what was measured since the last entry; of two with the same name the second keeps its prefix."""
        found: dict[str, Any] = {}
        for whose, values in self._diagnostics.items():
            for name, value in values.items():
                found[f"{whose}/{name}" if name in found else name] = value
        return found
