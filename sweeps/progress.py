"""What is seen of a sweep that is waited for: one line that changes, or one for each job that has ended."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from expkit.printable import printable
from expkit.sweep.folder import JobFile, SweepDir, varying
from expkit.sweep.jobs import Job

__all__ = ["Progress"]

_LONGEST = 200  # characters of a line about a job


class Progress:
    """Follows the files that jobs write.

    Args:
        folder: of the sweep.
        wanted: numbers of the jobs that are waited for.

    Attributes:
        over: numbers of those that have ended.
    """

    def __init__(self, folder: SweepDir, wanted: set[int]) -> None:
        self._folder, self._wanted = folder, wanted
        self._seen: dict[int, int] = {}
        self._jobs: dict[int, JobFile] = {}
        self._asked = time.monotonic()
        self._varying: set[str] | None = None
        self.over: set[int] = set()
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True, redirect_stdout=False)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        self.look()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    @property
    def ended(self) -> bool:
        """Whether all have ended."""
        return self.over >= self._wanted

    @property
    def quiet(self) -> float:
        """Seconds since `asked`."""
        return time.monotonic() - self._asked

    def asked(self) -> None:
        """Take note that SLURM has been asked now."""
        self._asked = time.monotonic()

    def look(self) -> None:
        """Read the files that have changed. A job that was preempted is not over: it may be requeued."""
        for number, moment in sorted(self._folder.changes()):
            if number in self._wanted and self._seen.get(number) != moment:
                job = self._folder.job(number)
                if job is not None:
                    self._seen[number], self._jobs[number] = moment, job
                    if job.state in ("done", "failed"):
                        self._over(job)
        if self._console.is_terminal:
            self._live.update(Text(self._line(), no_wrap=True, overflow="ellipsis"))

    def end(self, job: Job, state: str | None = None) -> None:
        """Note of a job that could not say so itself how it has ended."""
        last = self._folder.job(job.number)
        if last is not None and last.state in ("done", "failed"):  # it could: meanwhile
            self._jobs[job.number] = last
            self._over(last)
            return
        state = state or job.state
        said = replace(job.file, state=state, error=job.why or None, ended=job.file.ended or time.time())
        self._folder.write(said)
        self._jobs[job.number] = said
        self._over(said)

    def _over(self, job: JobFile) -> None:
        if job.number in self.over:
            return
        self.over.add(job.number)
        value = f", best val_loss {job.value:.5g}" if job.value is not None else ""
        what = f": {job.error}" if job.error else value
        line = f"[{len(self.over)}/{len(self._wanted)}] job {job.number} {job.state}{self._differs(job)}{what}"
        self._print(printable(line))

    def _print(self, line: str) -> None:
        if self._console.is_terminal:
            self._console.print(Text(line[:_LONGEST]))
        else:
            print(line, file=sys.stderr, flush=True)

    def _differs(self, job: JobFile) -> str:
        if self._varying is None:
            files: Any = (self._folder.job(number) for number in self._folder.numbers())
            self._varying = varying(each.overrides for each in files if each is not None)
        found = [each for each in job.overrides if each.partition("=")[0] in self._varying]
        return f" ({', '.join(found)})" if found else ""

    def _line(self) -> str:
        counts = Counter(self._jobs[number].state if number in self._jobs else "queued" for number in self._wanted)
        order = ("done", "failed", "running", "queued", "preempted", "interrupted", "cancelled")
        told = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
        return printable(f"{self._folder.root}: {len(self._wanted)} jobs: {told}")
