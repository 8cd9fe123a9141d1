"""MetricsLogger: the journal for somebody's own training loop, in three lines."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from expkit.journal import Journal, JournalReader, cut_journal, decode, read_journal
from expkit.journal.reader import parts_of
from expkit.opening import open_file
from expkit.record import RESERVED, make_record

__all__ = ["MetricsLogger"]

_TAIL = 1 << 16


class MetricsLogger:
    """Logs metrics to `log_dir/metrics.jsonl` (one JSON line each, flushed) and `log_dir/training.log` (for people).

    Args:
        log_dir: folder of the two files; made if it is not there.
        log_interval: steps between log entries, for `should_log`.

    Raises:
        ValueError: `log_interval` is less than 1.
    """

    def __init__(self, log_dir: Path | str, log_interval: int = 10) -> None:
        if log_interval < 1:
            raise ValueError(f"log_interval must be at least 1, not {log_interval}")
        self.log_dir = Path(log_dir)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.log_interval = log_interval
        self.path = self.log_dir / "metrics.jsonl"
        self._journal = Journal(self.path)
        self._text = Journal(self.log_dir / "training.log")
        for file in (self._journal, self._text):  # who never calls close loses nothing either
            weakref.finalize(self, file.close)

    def should_log(self, step: int) -> bool:
        """Whether `step` is a multiple of the interval."""
        return step % self.log_interval == 0

    def log_metrics(self, step: int, metrics: Mapping[str, Any], flush: bool = True) -> None:
        """Append one entry. Values are numbers or one-element tensors; `epoch` among them is the entry's epoch.

        Args:
            step: the step that the metrics belong to.
            metrics: name -> value; NaN and infinities are kept.
            flush: hand the line to the operating system at once (a killed process then loses nothing).

        Raises:
            TypeError: a value is no single number, or `metrics` are no names and values.
            ValueError: a name is reserved (step, time, details, series, nonfinite).
        """
        given: object = metrics
        if not isinstance(given, Mapping):
            what = type(given).__name__
            raise TypeError(f"metrics is {what}, but it must be names and numbers: log_metrics(step, {{'loss': 0.5}})")
        values = dict(metrics)
        epoch = int(values.pop("epoch", 0))
        record = make_record(step, values, epoch)
        self._journal.write(record, flush)
        shown = " | ".join(f"{name} {value:.6g}" for name, value in record.metrics.items())
        moment = datetime.fromtimestamp(record.time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        self._text.write_line(f"{moment} step {record.step} | {shown}\n".encode(), flush)

    def load_metrics(self) -> list[dict[str, Any]]:
        """Return all entries, flat: `entry["loss"]`. Broken lines are skipped with one warning."""
        self._journal.flush()
        return list(read_journal(self.path))

    def get_latest_step(self) -> int | None:
        """Return the step of the last entry, or None if there is none."""
        self._journal.flush()
        for path in [self.path, *reversed(parts_of(self.path))]:
            for start in (max(0, _size(path) - _TAIL), 0):
                step = _last_step(path, start)
                if step is not None:
                    return step
        return None

    def get_metrics_summary(self) -> dict[str, float]:
        """Return total_steps (entries) and, for each metric, {m}_final, {m}_min, {m}_max, {m}_mean.

        NaN and infinities count for {m}_final only.
        """
        self._journal.flush()
        summary: dict[str, float] = {"total_steps": 0}
        sums: dict[str, tuple[float, int]] = {}
        with JournalReader(self.path) as reader:
            for entry in reader:
                summary["total_steps"] += 1
                for name, value in entry.items():
                    if name in RESERVED or not isinstance(value, int | float):
                        continue
                    summary[f"{name}_final"] = value
                    if math.isfinite(value):
                        summary[f"{name}_min"] = min(value, summary.get(f"{name}_min", value))
                        summary[f"{name}_max"] = max(value, summary.get(f"{name}_max", value))
                        total, count = sums.get(name, (0.0, 0))
                        sums[name] = total + value, count + 1
                        summary[f"{name}_mean"] = sums[name][0] / sums[name][1]
        return summary

    def rotate(self) -> Path:
        """Move the entries so far to `metrics.0001.jsonl` (and so on) and go on in a new file."""
        return self._journal.rotate()

    def rewind(self, step: int) -> int:
        """Cut off the entries after `step`, and return how many: who resumes from `step` logs them again.

        They are kept beside it, in `metrics.cut-1.jsonl` and so on. training.log stays as it is.
        """
        self._journal.flush()
        return cut_journal(self.path, step)

    def close(self) -> None:
        """Close both files."""
        self._journal.close()
        self._text.close()

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _last_step(path: Path, start: int) -> int | None:
    """Return the step of the last readable line at or after byte `start`."""
    if not path.exists():
        return None
    with open_file(path) as file:
        file.seek(start, os.SEEK_SET)
        lines = file.read().splitlines()
    for line in reversed(lines[1:] if start else lines):
        try:
            step: int = decode(line)["step"]
            return step
        except ValueError:
            continue
    return None
