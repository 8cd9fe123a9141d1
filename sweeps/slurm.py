"""Jobs of a sweep as SLURM arrays: submitted in one go, and waited for by what they write in the sweep's folder."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
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
_LARGEST = 1001  # tasks of an array, where SLURM does not say how many it takes: its default


def submit(folder: SweepDir, params: Mapping[str, Any], jobs: Mapping[int, Callable[[], Any]]) -> None:
    """Submit jobs, and say so.

    Args:
        folder: of the sweep.
        params: of the launcher.
        jobs: number -> what it does.

    Raises:
        UserError: SLURM refuses.
    """
    numbers = list(jobs)
    most = _largest_array()
    names = []
    for start in range(0, len(numbers), most):
        batch = numbers[start : start + most]
        executor = make_executor("slurm", params, folder.root / ".submitit" / "%j")
        try:
            submitted = executor.submit_array([jobs[number] for number in batch])
        except RuntimeError as error:  # submitit's, with what sbatch said
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UserError(f"sbatch: {lines[-1] if lines else error}") from error
        folder.note(Submission("slurm", {number: job.job_id for number, job in zip(batch, submitted, strict=True)}))
        names.append(submitted[0].job_id.partition("_")[0])
    count = f"{len(numbers)} job{'s' if len(numbers) > 1 else ''}"
    print(f"submitted {count} to SLURM: {', '.join(names)}; how they stand: expkit sweep {_quoted(folder.root)}")


def wait(folder: SweepDir, numbers: Sequence[int]) -> None:
    """Wait until jobs have ended, and note of those that could not say so themselves how.

    Raises:
        KeyboardInterrupt: somebody has pressed Ctrl-C; the jobs go on.
    """
    wanted = set(numbers)
    with Progress(folder, wanted) as progress:
        try:
            while not progress.ended:
                time.sleep(_LOOK)
                progress.look()
                if progress.quiet >= _ASK:
                    _ask(folder, wanted, progress)
        except KeyboardInterrupt:
            place = _quoted(folder.root)
            raise KeyboardInterrupt(
                f"the jobs go on without this terminal: expkit sweep {place} says how they stand, and "
                f"expkit sweep {place} --cancel ends them"
            ) from None


def _ask(folder: SweepDir, wanted: set[int], progress: Progress) -> None:
    """Note how jobs have ended that nothing more is to be heard of."""
    for job in jobs_of(folder):
        if job.number in wanted - progress.over and job.state in ENDED:
            progress.end(job)
    progress.asked()


def _largest_array() -> int:
    _, said, _ = slurm_said("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(1, int(found[1])) if found else _LARGEST


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
