"""One run of a list: what its small files tell, each read when it is asked for."""

from __future__ import annotations

import errno
import math
import os
import stat
import time
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from expkit.ending import life_sign
from expkit.experiment import RunDir
from expkit.journal.last import last_entries
from expkit.listing.selected import selected
from expkit.nested import MISSING, value_at
from expkit.opening import LARGEST_WHOLE
from expkit.record import RESERVED
from expkit.small_files import checked
from expkit.standing import STALLED_AFTER, standing
from expkit.telling import direction_of

__all__ = ["RunEntry", "entry_of"]

_GAPS = 8  # records of whose distance the usual gap is the mean
_LATER = 64  # records: more than a run writes between two heartbeats


class RunEntry:
    """A run directory, or one that was to become one. What cannot be read is empty, and named in `problem`.

    Args:
        root: its directory.
        name: what it is called in its folder of runs: its id, or sweep/0.
        files: the names that are in it.

    Attributes:
        problem: what cannot be read, or "".
    """

    def __init__(self, root: str, name: str, files: frozenset[str]) -> None:
        self.root = root
        self.name = name
        self.problem = ""
        self._files = files
        self._contents: dict[str, Mapping[str, Any]] = {}

    @cached_property
    def run(self) -> RunDir:
        """Its directory."""
        return RunDir(self.root)

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json."""
        return self._contents.get("config.json") or self._read("config.json")

    @property
    def status(self) -> Mapping[str, Any]:
        """status.json."""
        return self._contents.get("status.json") or self._read("status.json")

    @property
    def results(self) -> Mapping[str, Any]:
        """results.json."""
        return self._contents.get("results.json") or self._read("results.json")

    @cached_property
    def last(self) -> Mapping[str, Any]:
        """The last record of the journal, {} without one: asked for where no status.json says as much."""
        return next(iter(last_entries(self.run.metrics)), {})

    @cached_property
    def state(self) -> str:
        """One of `expkit.standing.STATES`, or unreadable."""
        status = self.status
        if not status:
            _ = self.config  # may have a problem, too
            if self.problem:
                return "unreadable"
        said = status.get("state")
        if said not in (None, "starting", "running"):
            return standing(status)
        if said is None:
            return standing(status, quiet=self._quiet, has_results=bool(self.results))
        sign = life_sign(status)
        quiet = self._quiet if sign == "alive" else None
        gap = self._usual_gap() if quiet is not None and quiet > STALLED_AFTER else 0.0
        return standing(status, sign, quiet, gap)

    @cached_property
    def step(self) -> int | None:
        """The last step that is known of."""
        said = _whole(self.status.get("step"))
        if self.state in ("crashed", "stalled") or said is None:
            newest = self.last if said is None else next(iter(self._unheard[-1:]), {})
            found = _whole(newest.get("step"))
            return said if found is None else found if said is None else max(said, found)
        return said

    @property
    def total_steps(self) -> int | None:
        """How many steps it is to train."""
        return _whole(self.status.get("total_steps"))

    @cached_property
    def started(self) -> float | None:
        """When it was started for the first time, in seconds since 1970."""
        return _moment(self.config.get("timestamp")) or _moment(self.status.get("started"))

    @cached_property
    def active(self) -> float:
        """When it gave its last sign of life, in seconds since 1970; 0 if nothing tells."""
        beat = self.status.get("heartbeat_time")
        if isinstance(beat, int | float):
            return float(beat)
        moments = (_mtime(path) for path in (self.run.metrics, self.run.results, self.run.config, self.run.root))
        return next((moment for moment in moments if moment is not None), 0.0)

    @property
    def duration(self) -> float | None:
        """Seconds from its first start to its last sign of life, pauses between two starts included."""
        if self.started is None:
            return None
        end = time.time() if self.state in ("starting", "running") else self.active
        return max(0.0, end - self.started)

    @property
    def restarts(self) -> int | None:
        """How often it was started again."""
        return _whole(self.status.get("restarts"))

    @property
    def host(self) -> str | None:
        """The machine that it ran on last."""
        said = self.status.get("host") or value_at(self.config, "hardware.host")
        return str(said) if isinstance(said, str) else None

    @property
    def seed(self) -> Any:
        """What its random numbers began with; MISSING if that is not known."""
        return self.config_value("trainer.seed", self.config.get("seed", MISSING))

    @cached_property
    def overrides(self) -> list[str]:
        """What was typed of its configuration."""
        said = self.config.get("overrides")
        return [str(each) for each in said] if isinstance(said, list) else []

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The configuration that it was trained with."""
        found = self.config.get("config")
        return found if isinstance(found, Mapping) else {}

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The last value of each metric: of a run that was killed the journal's, as its last heartbeat is older."""
        said = self.status.get("metrics")
        if isinstance(said, Mapping) and said:
            return self.newest_metrics if self.state in ("crashed", "stalled") else said
        own = {name: value for name, value in self.last.items() if name not in RESERVED}
        return own or self.final_metrics

    @cached_property
    def newest_metrics(self) -> Mapping[str, Any]:
        """The last value of each metric: the heartbeat's, or the journal's where that is ahead of it."""
        said = self.status.get("metrics")
        found: dict[str, Any] = dict(said) if isinstance(said, Mapping) else {}
        for record in self._unheard:
            found |= {name: value for name, value in record.items() if name not in RESERVED}
        return found

    @property
    def final_metrics(self) -> Mapping[str, Any]:
        """The final metrics of results.json."""
        found = self.results.get("final_metrics")
        return found if isinstance(found, Mapping) else {}

    def metric(self, name: str) -> Any:
        """Return a metric: its last value, or what results.json has under this name. MISSING without one."""
        metrics = self.metrics
        for key in (name, f"final/{name}"):
            if key in metrics:
                return math.nan if metrics[key] is None else metrics[key]  # JSON has no NaN
        found = self.final_metrics.get(name, MISSING)
        last = metrics.get(name.removeprefix("best_")) if name.startswith("best_") else None
        if isinstance(found, int | float) and isinstance(last, int | float):
            # results.json may be half a minute older than the last value.
            direction = direction_of(name.removeprefix("best_"))
            return max(found, last) if direction == "max" else min(found, last) if direction == "min" else found
        return math.nan if found is None else found

    def config_value(self, key: str, default: Any = MISSING) -> Any:
        """Return the value of a key of the configuration, `optimizer.lr`, or of config.json itself.

        A key that holds a selected option, `optimizer` say, has the option's name: as it was typed, or of its class.
        """
        for tree in (self.resolved, self.config):
            found = value_at(tree, key)
            if found is not MISSING:
                return selected(key, found, self.overrides) if isinstance(found, Mapping) else found
        return default

    def forget(self) -> None:
        """Let the memory of config.json go: what is asked for again is read again."""
        self._contents.pop("config.json", None)

    def _read(self, name: str) -> Mapping[str, Any]:
        if name not in self._files:
            return {}
        content: dict[str, Any]
        try:
            found = orjson.loads(_bytes(f"{self.root}/{name}"))
            is_object = isinstance(found, dict)
            content = checked(name, found) if is_object else self._troubled(f"{name} holds no JSON object")
        except FileNotFoundError:  # removed meanwhile
            content = {}
        except OSError as error:
            content = self._troubled(f"{name} cannot be read: {error.strerror}")
        except ValueError:
            content = self._troubled(f"{name} is damaged, or only a part of it was written")
        if not content:
            self._files -= {name}  # not again
        self._contents[name] = content
        return content

    def _troubled(self, problem: str) -> dict[str, Any]:
        self.problem = problem
        return {}

    @cached_property
    def _unheard(self) -> list[dict[str, Any]]:
        """The records that are newer than the metrics of the last heartbeat, oldest first."""
        # A resume that trained nothing has no metrics in its heartbeat.
        step = (_whole(self.status.get("step")) or 0) if self.status.get("metrics") else -1
        return last_entries(self.run.metrics, _LATER, after=step)

    @property
    def _quiet(self) -> float | None:
        """Seconds since the journal was written to; None without a journal that has something."""
        moment = _mtime(self.run.metrics, least=1)
        return max(0.0, time.time() - moment) if moment is not None else None

    def _usual_gap(self) -> float:
        times = [
            entry["time"]
            for entry in last_entries(self.run.metrics, _GAPS)
            if isinstance(entry.get("time"), int | float)
        ]
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


def entry_of(run: RunDir) -> RunEntry:
    """Return a run as lists have it."""
    names = ("config.json", "status.json", "results.json")
    return RunEntry(str(run.root), run.id, frozenset(name for name in names if (run.root / name).exists()))


def _bytes(path: str) -> bytes:
    """Return what is in a file: of ten thousand small ones in half the time that `open` takes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISFIFO(found.st_mode) or not found.st_size <= LARGEST_WHOLE:
            raise OSError(errno.ENXIO, "it is no file of a run")
        size = found.st_size
        data = os.read(descriptor, size + 1)
        while len(data) < size and (more := os.read(descriptor, size - len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)


def _moment(text: Any) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _mtime(path: Path, least: int = 0) -> float | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime if found.st_size >= least else None


def _whole(value: Any) -> int | None:
    return int(value) if type(value) in (int, float) and math.isfinite(value) else None
