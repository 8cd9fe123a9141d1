"""How a sweep stands, for people and for programs."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from expkit.comparison.configs import short_names
from expkit.listing.columns import main_metric, value_of
from expkit.listing.entry import RunEntry
from expkit.nested import MISSING
from expkit.printable import printable
from expkit.sweep.folder import SweepDir, varying
from expkit.sweep.jobs import STATES, UNFINISHED, Job, jobs_of
from expkit.table import Table, json_value
from expkit.telling import direction_of

__all__ = ["SweepReport"]

_LEAST = 3  # runs that are compared, where a pattern cannot name them
_SHOWN = 60  # jobs, as text
_TELLING = ("failed", "running", "preempted", "cancelled", "done", "queued")


@dataclass
class SweepReport:
    """A sweep as it stands now.

    Attributes:
        folder: of it.
        about: what sweep.json says.
        jobs: in the order of their numbers.
    """

    folder: SweepDir
    about: dict[str, Any]
    jobs: list[Job]

    @classmethod
    def read(cls, folder: SweepDir) -> SweepReport:
        """Look at everything.

        Raises:
            UserError: it is no sweep's folder.
        """
        return cls(folder, folder.read(), jobs_of(folder))

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the overrides in which the jobs differ, in the order in which they were typed."""
        differ = varying(job.file.overrides for job in self.jobs)
        typed = (each.partition("=")[0] for job in self.jobs for each in job.file.overrides)
        return [key for key in dict.fromkeys(typed) if key in differ]

    @cached_property
    def metric(self) -> str | None:
        """The metric that tells most: its best value so far, where the runs keep that."""
        return main_metric(self._entries)

    @cached_property
    def best(self) -> Job | None:
        """The job that is best so far; None where it is not known whether more or less of the metric is better."""
        direction = direction_of((self.metric or "").removeprefix("best_"))
        told = [(value, job) for job in self.jobs if (value := self.value(job)) is not None and math.isfinite(value)]
        if direction is None or not told:
            return None
        pick = min if direction == "min" else max
        return pick(told, key=lambda pair: pair[0])[1]

    @property
    def counts(self) -> dict[str, int]:
        """State -> how many jobs."""
        counted = Counter(job.state for job in self.jobs)
        return {state: counted[state] for state in STATES if counted[state]}

    @property
    def open(self) -> bool:
        """Whether any job is worked at, or will be."""
        return any(job.state in ("queued", "running") for job in self.jobs)

    def value(self, job: Job) -> float | None:
        """Return a job's value of the metric, None if it has none."""
        if self.metric is None or job.entry is None:
            return None
        found = value_of(job.entry, self.metric)
        return float(found) if isinstance(found, int | float) else None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        return {
            "folder": str(self.folder.root),
            "about": self.about,
            "counts": self.counts,
            "metric": self.metric,
            "best": self.best.number if self.best is not None else None,
            "jobs": [self._json(job) for job in self.jobs],
        }

    def text(self, width: int = 0, all_jobs: bool = False) -> str:
        """Return it for a terminal.

        Args:
            width: of the terminal; where the table is wider, it is without the names of runs, and what is longer still
                is cut. 0: neither.
            all_jobs: however many there are.
        """
        if not self.jobs:
            return f"{printable(str(self.folder.root))}: no job has begun yet"
        shown = self.jobs if all_jobs else _most_telling(self.jobs)
        table = self._table(shown).text().splitlines()
        if width and max(map(len, table)) > width:
            table = self._table(shown, names=False).text().splitlines()
        lines = [*table, *map(printable, self._below(all_jobs))]
        end = len(lines) - self._next()
        cut = (line if not width or len(line) <= width else line[: width - 1] + "…" for line in lines[:end])
        return "\n".join([*cut, *lines[end:]])

    def _table(self, jobs: Sequence[Job], names: bool = True) -> Table:
        short = short_names(self.keys)
        metric = [self.metric] if self.metric is not None else []
        runs = names and any(job.run is not None for job in jobs)
        why = any(job.why for job in jobs)
        columns = ["job", "state", *(short[key] for key in self.keys), "step", *metric]
        columns += [*(["run"] if runs else []), *(["why"] if why else [])]
        rows = []
        for job in jobs:
            values = dict(each.partition("=")[::2] for each in job.file.overrides)
            row: list[Any] = [job.number, job.state, *(values.get(key) for key in self.keys), _step(job.entry)]
            row += [self.value(job)] if metric else []
            row += [job.run.name if job.run is not None else None] if runs else []
            rows.append([*row, job.why or None] if why else row)
        done = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return Table(f"{self.folder.root}: {len(self.jobs)} job{'s' * (len(self.jobs) != 1)}: {done}", columns, rows)

    def _below(self, all_jobs: bool) -> Iterator[str]:
        """Yield what stands below the table; the commands, which are never cut, last."""
        if not all_jobs and len(self.jobs) > _SHOWN:
            yield f"  {len(self.jobs) - _SHOWN} more: --all shows them"
        if self.best is not None and self.metric is not None:
            value = self.value(self.best)
            typed = [each for each in self.best.file.overrides if each.partition("=")[0] in self.keys]
            yield f"best: job {self.best.number}{_in_brackets(typed)}, {self.metric} {value:.5g}, {self.best.run}"
        yield from self._commands

    def _next(self) -> int:
        return len(self._commands)

    @cached_property
    def _commands(self) -> list[str]:
        place = shlex.quote(str(self.folder.root))
        found = []
        failed = next((job for job in self.jobs if job.state == "failed"), None)
        if failed is not None and failed.log is not None:
            found.append(f"log of job {failed.number}: {shlex.quote(str(failed.log))}")
        if any(job.state == "failed" for job in self.jobs):
            found.append(f"run them again: expkit sweep {place} --resubmit failed")
        elif any(job.state in UNFINISHED for job in self.jobs) and not self.open:
            found.append(f"go on with them: expkit sweep {place} --resubmit unfinished")
        if self.open:
            found.append(f"end it: expkit sweep {place} --cancel")
        compared = self._compared()
        return [*found, f"compare: expkit compare {compared}"] if compared else found

    def _compared(self) -> str:
        """Return what `expkit compare` is to be given, "" with fewer than two runs."""
        there = [job for job in self.jobs if self.value(job) is not None and job.run is not None]
        if len(there) < 2:
            return ""
        suffix, outputs = self.about.get("suffix"), {job.run.parent for job in there if job.run is not None}
        names = all(isinstance(suffix, str) and job.run is not None and f"_{suffix}-" in job.run.name for job in there)
        if len(there) > _LEAST and names and len(outputs) == 1:
            return shlex.quote(str(Path(outputs.pop(), f"*{suffix}-*")))
        more = direction_of((self.metric or "").removeprefix("best_")) == "max"
        there.sort(key=lambda job: self.value(job) or 0.0, reverse=more)
        return " ".join(shlex.quote(str(job.run)) for job in there[:_LEAST])

    @property
    def _entries(self) -> list[RunEntry]:
        return [job.entry for job in self.jobs if job.entry is not None]

    def _json(self, job: Job) -> dict[str, Any]:
        entry = job.entry
        value = self.value(job)
        return {
            "number": job.number,
            "state": job.state,
            "overrides": list(job.file.overrides),
            "job_id": job.job_id,
            "kind": job.kind or None,
            "run": str(job.run) if job.run is not None else None,
            "step": entry.step if entry is not None else None,
            "total_steps": entry.total_steps if entry is not None else None,
            "metric": json_value(value if value is not None else MISSING),
            "value": job.file.value,
            "why": job.why or None,
            "log": str(job.log) if job.log is not None else None,
            "started": job.file.started,
            "ended": job.file.ended,
            "restarts": entry.restarts if entry is not None else None,
        }


def _most_telling(jobs: Sequence[Job]) -> list[Job]:
    """Return as many jobs as are shown: those that failed first."""
    if len(jobs) <= _SHOWN:
        return list(jobs)
    order = {state: place for place, state in enumerate(_TELLING)}
    told = sorted(jobs, key=lambda job: order.get(job.state, len(order)))[:_SHOWN]
    return sorted(told, key=lambda job: job.number)


def _step(entry: RunEntry | None) -> str | None:
    if entry is None or entry.step is None:
        return None
    return f"{entry.step}/{entry.total_steps}" if entry.total_steps else str(entry.step)


def _in_brackets(typed: Sequence[str]) -> str:
    return f" ({', '.join(typed)})" if typed else ""
