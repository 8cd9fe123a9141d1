"""The folder of a sweep: what was started (sweep.json), each job (jobs/NUMBER.json), and what was submitted when.

The jobs write their own files, whoever runs them: Hydra's own launcher, joblib, submitit. All is JSON, and readers take
nothing in it for granted: a folder may come from anybody.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import orjson

from expkit.errors import UserError
from expkit.files import read_json, write_json
from expkit.opening import read_whole
from expkit.secrets import mask_arguments

__all__ = ["JobFile", "Submission", "SweepDir", "varying"]


@dataclass(frozen=True)
class JobFile:
    """What a job has said of itself.

    Attributes:
        number: of the job in its sweep, from 0.
        overrides: all of it, as Hydra gets them, secrets masked.
        state: queued, running, done, failed, preempted or interrupted.
        job_id: what submitit calls it: SLURM's number, `ARRAY_TASK`, or the process that watches over a local job.
        suffix: the end of its run's id, fixed when it was submitted; None: the run chooses its id.
        run: the run directory, relative to the sweep's folder; None: not known yet.
        value: what the sweeper gets: the best validation loss.
        error: of a job that failed, its error in one line.
        host: where it runs.
        pid: of the process that trains.
        started: seconds since 1970.
        ended: seconds since 1970.
    """

    number: int
    overrides: tuple[str, ...] = ()
    state: str = "queued"
    job_id: str | None = None
    suffix: str | None = None
    run: str | None = None
    value: float | None = None
    error: str | None = None
    host: str | None = None
    pid: int | None = None
    started: float | None = None
    ended: float | None = None

    @classmethod
    def read(cls, content: Mapping[str, Any], number: int) -> JobFile:
        """Return what a file says, without what has the wrong type."""
        kinds = {"value": (int, float), "started": (int, float), "ended": (int, float), "pid": (int,)}
        said = {
            each.name: content[each.name]
            for each in fields(cls)
            if each.name not in ("number", "overrides") and type(content.get(each.name)) in kinds.get(each.name, (str,))
        }
        overrides = content.get("overrides")
        return cls(number, tuple(map(str, overrides)) if isinstance(overrides, list) else (), **said)

    def to_json(self) -> dict[str, Any]:
        """Return it as its file has it."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True)
class Submission:
    """One time that jobs were submitted, or cancelled.

    Attributes:
        kind: slurm, local, or cancelled.
        jobs: number -> job id; without ids where `kind` is cancelled, and where a process of this machine starts them
            one after the other.
        time: seconds since 1970.
        host: where.
        pid: of the process that starts local jobs.
    """

    kind: str
    jobs: Mapping[int, str | None]
    time: float = 0.0
    host: str | None = None
    pid: int | None = None


class SweepDir:
    """The names of things in a sweep's folder, and their reading and writing."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.about = self.root / "sweep.json"
        self.jobs = self.root / "jobs"
        self.submissions = self.root / "submissions.jsonl"
        self.log = self.root / "sweep.log"

    def exists(self) -> bool:
        """Whether there is a sweep here."""
        try:
            return self.about.is_file()
        except OSError:
            return False

    def begin(self, about: Mapping[str, Any]) -> bool:
        """Write sweep.json. Return False, and leave it alone, if there is one: of several writers the first wins."""
        self.jobs.mkdir(parents=True, exist_ok=True)
        content = orjson.dumps(dict(about), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str)
        try:
            descriptor = os.open(self.about, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        return True

    def read(self) -> dict[str, Any]:
        """Return what sweep.json says; {} if it is damaged, as the jobs tell most.

        Raises:
            UserError: there is none.
        """
        if not self.exists():
            raise UserError(f"{self.root} is no sweep's folder: it has no sweep.json")
        with contextlib.suppress(UserError):
            return read_json(self.about)
        return {}

    def file(self, number: int) -> Path:
        """Return where a job's file is."""
        return self.jobs / f"{number}.json"

    def job(self, number: int) -> JobFile | None:
        """Return what a job has said, or None if there is nothing that can be read."""
        with contextlib.suppress(UserError):
            return JobFile.read(read_json(self.file(number)), number)
        return None

    def write(self, job: JobFile) -> None:
        """Replace a job's file."""
        said = replace(job, overrides=tuple(mask_arguments(job.overrides)))
        write_json(self.file(job.number), said.to_json(), durable=False)

    def numbers(self) -> list[int]:
        """Return the numbers of the jobs that have a file, in order."""
        return sorted(number for number, _ in self.changes())

    def changes(self) -> Iterator[tuple[int, int]]:
        """Yield the number of every job, and when its file was written, in nanoseconds."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.jobs) as files:
            for each in files:
                stem, _, ending = each.name.partition(".")
                if ending == "json" and stem.isascii() and stem.isdigit() and str(int(stem)) == stem:
                    with contextlib.suppress(OSError):
                        yield int(stem), each.stat().st_mtime_ns

    def note(self, submission: Submission) -> None:
        """Write down that jobs were submitted or cancelled."""
        line = {
            "kind": submission.kind,
            "time": submission.time or time.time(),
            "host": submission.host,
            "pid": submission.pid,
            "jobs": {str(number): job for number, job in submission.jobs.items()},
        }
        with self.submissions.open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")

    def submitted(self) -> list[Submission]:
        """Return what was submitted and cancelled, oldest first. Lines that cannot be read are passed over."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in read_whole(self.submissions).splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    said = orjson.loads(line)
                    jobs = {int(number): None if job is None else str(job) for number, job in said["jobs"].items()}
                    pid = said.get("pid") if type(said.get("pid")) is int else None
                    found.append(Submission(str(said["kind"]), jobs, float(said["time"]), said.get("host"), pid))
        return found

    def relative(self, run: Path | str) -> str:
        """Return a run's directory as a job's file names it: both may be moved together."""
        return os.path.relpath(Path(run).absolute(), self.root.absolute())

    def run_of(self, job: JobFile) -> Path | None:
        """Return a job's run directory as a path from here, None if it is not known."""
        if job.run is None:
            return None
        path = Path(os.path.normpath(self.root.absolute() / job.run))
        return Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path


def varying(jobs: Iterable[Sequence[str]]) -> set[str]:
    """Return the keys of the overrides that not all jobs have with the same value; how they are run is none of them."""
    values: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    total = 0
    for total, overrides in enumerate(jobs, 1):  # noqa: B007 - how many there were
        for override in overrides:
            key = override.partition("=")[0]
            values.setdefault(key, set()).add(override)
            counts[key] = counts.get(key, 0) + 1
    differ = {key for key, found in values.items() if len(found) > 1 or counts[key] < total}
    return {key for key in differ if not key.startswith("sweep.")}
