"""What SLURM says of many jobs at once, and how they are cancelled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from expkit.errors import UserError
from expkit.slurm_command import ask_slurm

__all__ = ["cancel", "queue"]

#: Seconds that a command gets.
_PATIENCE = 15.0
#: Ids in one command line.
_AT_ONCE = 500

_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


def queue(jobs: Iterable[str]) -> dict[str, str] | None:
    """Return of each job that SLURM knows `queued`, `running`, or the word that it ended with (`CANCELLED`, say).

    SLURM forgets a job some minutes after its end.

    Args:
        jobs: `123`, or `123_4` of an array.

    Returns:
        None if SLURM does not answer: nothing is known then.
    """
    numbers = sorted({job.partition("_")[0] for job in jobs})
    found: dict[str, str] = {}
    for start in range(0, len(numbers), _AT_ONCE):
        names = ",".join(numbers[start : start + _AT_ONCE])
        code, said, errors = ask_slurm("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T", "-j", names, timeout=_PATIENCE)
        if code != 0 and "Invalid job id" not in errors:  # one that it has forgotten
            return None
        for line in said.splitlines():
            job, _, state = line.strip().partition("|")
            found[job] = "queued" if state in _QUEUED else "running" if state in _RUNNING else state
    return found


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs: those that run are sent TERM, and have the time that the cluster gives them to save.

    Raises:
        UserError: SLURM does not take it.
    """
    for start in range(0, len(jobs), _AT_ONCE):
        code, _, errors = ask_slurm("scancel", *jobs[start : start + _AT_ONCE], timeout=_PATIENCE)
        if code != 0 and "Invalid job id" not in errors and "already completing" not in errors:
            raise UserError(f"scancel: {' '.join(errors.split()) or f'exit code {code}'}")
