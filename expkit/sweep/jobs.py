"""How each job of a sweep stands: what it said itself, what its run says, what SLURM or this machine knows of it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from expkit.ending import ending
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import is_there, process_alive
from expkit.jobstate import job_verdict
from expkit.listing.entry import RunEntry
from expkit.sweep.folder import JobFile, Submission, SweepDir
from expkit.sweep.queue import queue

__all__ = ["ENDED", "STATES", "UNFINISHED", "Job", "chosen", "jobs_of"]

#: What a job can be.
STATES = ("queued", "running", "done", "failed", "preempted", "cancelled")
#: Those that are not worked at any more.
ENDED = ("done", "failed", "preempted", "cancelled")
#: Those that `--resubmit unfinished` means.
UNFINISHED = ("failed", "preempted", "cancelled")

_TAIL = 4096  # bytes of a log
_VERDICTS = 20  # jobs that SLURM is asked about one by one


@dataclass
class Job:
    """A job as it stands now.

    Attributes:
        file: what it has said itself.
        state: one of `STATES`.
        run: its run directory, None if it is not known yet or was never made.
        job_id: SLURM's, or that of the process that watches over a local job.
        kind: slurm or local, as it was submitted; "" if it was not, but run by the sweep's own process.
        why: of a job that failed or was ended from outside, why, in one line.
        log: what submitit keeps of its output, if there is such a file.
    """

    file: JobFile
    state: str
    run: Path | None = None
    job_id: str | None = None
    kind: str = ""
    why: str = ""
    log: Path | None = None

    @property
    def number(self) -> int:
        """Its number in the sweep, from 0."""
        return self.file.number

    @cached_property
    def entry(self) -> RunEntry | None:
        """What the small files of its run tell."""
        if self.run is None:
            return None
        names = ("config.json", "status.json", "results.json")
        there = frozenset(name for name in names if is_there(self.run / name))
        return RunEntry(str(self.run), self.run.name, there) if there else None


def jobs_of(folder: SweepDir) -> list[Job]:
    """Return the jobs of a sweep as they stand now, in the order of their numbers."""
    files = [found for number in folder.numbers() if (found := folder.job(number)) is not None]
    last = dict.fromkeys((file.number for file in files), _starter(folder))
    cancelled: set[int] = set()
    for submission in folder.submitted():
        if submission.kind == "cancelled":
            cancelled |= submission.jobs.keys()
        else:
            last |= dict.fromkeys(submission.jobs, submission)
            cancelled -= submission.jobs.keys()
    ids = {file.number: last[file.number].jobs.get(file.number) or file.job_id for file in files}
    open_ones = [file.number for file in files if file.state not in ("done", "failed")]
    asked = {name for number in open_ones if (name := ids[number]) and last[number].kind == "slurm"}
    known = queue(asked) if asked else {}
    jobs = []
    for file in files:
        latest, job_id = last[file.number], ids[file.number]
        if known is not None and job_id in asked and known.get(job_id) not in ("queued", "running"):
            file = folder.job(file.number) or file  # it may have said how it ended before SLURM did
        job = Job(file, file.state, folder.run_of(file), job_id, latest.kind, file.error or "")
        if job.state not in ("done", "failed"):
            _judge(job, latest, known, file.number in cancelled)
        job.log = _log(folder, job_id)
        jobs.append(job)
    _explain(jobs)
    return jobs


def chosen(jobs: Sequence[Job], typed: str) -> list[Job]:
    """Return the jobs that `typed` names: numbers, states, `unfinished` or `all`, with commas.

    Raises:
        UserError: there is no such job or state.
    """
    found: dict[int, Job] = {}
    numbers = {job.number: job for job in jobs}
    for word in filter(None, (each.strip() for each in typed.split(","))):
        states = {"unfinished": UNFINISHED, "all": STATES}.get(word, (word,))
        if word.isascii() and word.isdigit():
            if int(word) not in numbers:
                raise UserError(f"there is no job {word}: they are numbered {_span(numbers)}")
            found[int(word)] = numbers[int(word)]
        elif states[0] in STATES:
            found |= {job.number: job for job in jobs if job.state in states}
        else:
            raise UserError(f"{word}: name jobs by numbers (3,7), or as {', '.join(STATES)}, unfinished or all")
    return [found[number] for number in sorted(found)]


def _span(numbers: Mapping[int, Job]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if numbers else "not at all, as none has begun"


def _starter(folder: SweepDir) -> Submission:
    """Return the process that started the sweep: of a job that has not been submitted yet, it alone knows."""
    about: dict[str, object] = {}
    with contextlib.suppress(UserError):
        about = folder.read()
    host, pid = about.get("host"), about.get("pid")
    return Submission("", {}, host=host if isinstance(host, str) else None, pid=pid if type(pid) is int else None)


def _judge(job: Job, submission: Submission, known: Mapping[str, str] | None, cancelled: bool) -> None:
    """Set how a job stands that has not said that it is done, or has failed."""
    if job.kind == "slurm" and known is None:
        job.state = "cancelled" if cancelled else "preempted" if job.state == "interrupted" else job.state
        job.why = job.why or "SLURM does not answer: this is what the job said last"
        return
    if cancelled and job.state == "queued" and job.kind != "slurm":  # who starts the others passes it over
        job.state = "cancelled"
        return
    there = known.get(job.job_id or "") if job.kind == "slurm" and known is not None else _here(job, submission)
    if there == "queued":
        job.state, job.why = "queued", ""
    elif there == "running":
        job.state = "running"
        if job.entry is not None and job.entry.state == "stalled":
            job.why = "it has written no record for a while"
    elif cancelled or there == "CANCELLED":
        job.state, job.why = "cancelled", ""
    elif job.state in ("preempted", "interrupted"):
        job.state = "preempted"
        job.why = job.why or "it was stopped from outside, and saved"
    elif job.state == "queued" and job.kind != "slurm":
        job.state, job.why = "cancelled", "it was never started: the process that starts the sweep's jobs has ended"
    else:
        job.state = "failed"
        job.why = f"SLURM says {there}" if there else ""


def _here(job: Job, submission: Submission) -> str | None:
    """Return whether a job of this machine is `queued` or `running`; of another machine, what its files say."""
    file = job.file
    if job.state == "queued":
        if submission.pid is None or submission.host != platform.node():
            return "queued"
        return "queued" if process_alive(submission.pid) else None
    if job.state != "running":
        return None
    if job.entry is not None and job.entry.state not in ("unknown", "unreadable"):
        return "running" if job.entry.state in ("starting", "running", "stalled") else None
    if file.host != platform.node() or file.pid is None:
        return "running"
    return "running" if process_alive(file.pid) else None


def _explain(jobs: Sequence[Job]) -> None:
    """Say why jobs failed that have not said so themselves."""
    silent = [job for job in jobs if job.state == "failed" and not job.file.error]
    for place, job in enumerate(silent):
        ended = ending(RunDir(job.run)) if job.entry is not None and job.run is not None else None
        slurm = job.why if job.kind == "slurm" else ""
        if job.kind == "slurm" and not slurm and ended is None and place < _VERDICTS and job.job_id:
            array, _, task = job.job_id.partition("_")
            ids = {"job_id": array, **({"array_job_id": array, "array_task_id": task} if task else {})}
            verdict = job_verdict(ids, job.file.started or 2.0**33)
            slurm = f"SLURM says {verdict}" if verdict else ""
        why = ended.why if ended is not None and ended.why else ""
        if slurm.startswith("SLURM says FAILED") and not why:  # before Python began: of cluster.setup, of a module
            why = _last_line(job.log)
        job.why = slurm if slurm and slurm in why else "; ".join(filter(None, (slurm, why)))
        if job.why in ("", "SLURM says FAILED"):  # which tells nobody anything
            job.why = "; ".join(filter(None, (job.why, _last_line(job.log)))) or "it ended without a word"


def _log(folder: SweepDir, job_id: str | None) -> Path | None:
    """Return the file of a job's errors that submitit keeps, of its first task."""
    if job_id is None or os.sep in job_id or job_id.startswith("."):
        return None
    place = folder.root / ".submitit" / job_id
    return next((file for end in ("err", "out") if is_there(file := place / f"{job_id}_0_log.{end}")), None)


def _last_line(log: Path | None) -> str:
    if log is None:
        return ""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    # What submitit notes of signals is no reason.
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith("submitit ")), "")
