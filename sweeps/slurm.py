"""Jobs of a sweep as SLURM arrays: submitted in one go, and waited for by what they write in the sweep's folder."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from expkit.sweep.folder import Submission, SweepDir
from expkit.sweep.jobs import ENDED, jobs_of
from sweeps.executors import make_executor, slurm_said
from sweeps.progress import Progress

__all__ = ["submit", "wait"]

#: Seconds between two looks at the jobs' files, and between two questions to SLURM.
_LOOK, _ASK = 0.5, 10.0
#: A look that took a second comes again after so many: there may be thousands of files, on a shared disk.
_SHARE = 20
#: Seconds in which what a job wrote last may reach this machine: shared disks keep names for up to a minute.
_GRACE = 60.0
_LARGEST = 1001  # tasks of an array, where SLURM does not say how many it takes: its default


def submit(folder: SweepDir, params: Mapping[str, Any], jobs: Mapping[int, Callable[[], Any]]) -> None:
    """Submit jobs, and say so.

    Args:
        folder: of the sweep.
        params: of the launcher.
        jobs: number -> what it does.

    Raises:
        UserError: SLURM refuses.
        KeyboardInterrupt: somebody has pressed Ctrl-C. Its text says which jobs there are nevertheless.
    """
    numbers = list(jobs)
    most = _largest_array()
    names: list[str] = []
    for start in range(0, len(numbers), most):
        batch = numbers[start : start + most]
        executor = make_executor("slurm", params, folder.root / ".submitit" / "%j")
        left = f"{start} of {len(numbers)} jobs were submitted before; the others: expkit sweep {_quoted(folder.root)}"
        try:
            with _uninterrupted():  # what has been submitted is written down
                submitted = executor.submit_array([jobs[number] for number in batch])
                found = {number: job.job_id for number, job in zip(batch, submitted, strict=True)}
                folder.note(Submission("slurm", found))
        except RuntimeError as error:  # submitit's, with what sbatch said
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            more = f"; {left} --resubmit unfinished" if start else ""
            raise UserError(f"sbatch: {lines[-1] if lines else error}{more}") from error
        except KeyboardInterrupt:
            place = _quoted(folder.root)
            raise KeyboardInterrupt(
                f"interrupted: {start + len(batch)} of {len(numbers)} jobs are submitted; "
                f"expkit sweep {place} --cancel ends them"
            ) from None
        names.append(submitted[0].job_id.partition("_")[0])
    count = f"{len(numbers)} job{'s' if len(numbers) > 1 else ''}"
    print(f"submitted {count} to SLURM: {', '.join(names)}; how they stand: expkit sweep {_quoted(folder.root)}")


def wait(folder: SweepDir, numbers: Sequence[int]) -> None:
    """Wait until jobs have ended, and note of those that could not say so themselves how.

    Raises:
        KeyboardInterrupt: somebody has pressed Ctrl-C; the jobs go on.
    """
    wanted = set(numbers)
    gone: dict[int, float] = {}
    with Progress(folder, wanted) as progress:
        try:
            look, ask = _LOOK, _ASK
            while not progress.ended:
                time.sleep(look)
                look = max(_LOOK, _SHARE * _seconds(progress.look))
                if progress.quiet >= ask:
                    ask = max(_ASK, _SHARE * _seconds(lambda: _ask(folder, wanted, progress, gone)))
        except KeyboardInterrupt:
            place = _quoted(folder.root)
            raise KeyboardInterrupt(
                f"the jobs go on without this terminal: expkit sweep {place} says how they stand, and "
                f"expkit sweep {place} --cancel ends them"
            ) from None


def _ask(folder: SweepDir, wanted: set[int], progress: Progress, gone: dict[int, float]) -> None:
    """Note how jobs have ended that nothing more is to be heard of.

    Args:
        gone: number -> since when SLURM has known nothing more of a job. Its own last word may still be on its way, and
            a job that is requeued may be out of the queue for a moment.
    """
    now = time.monotonic()
    over = {job.number: job for job in jobs_of(folder) if job.number in wanted - progress.over and job.state in ENDED}
    for number in gone.keys() - over.keys():
        del gone[number]
    for number, job in over.items():
        if now - gone.setdefault(number, now) >= _GRACE:
            progress.end(job)
    progress.asked()


def _seconds(call: Callable[[], None]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off until the end, for sbatch, too, whose answer would be lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes that are started now inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _largest_array() -> int:
    _, said, _ = slurm_said("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(1, int(found[1])) if found else _LARGEST


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
