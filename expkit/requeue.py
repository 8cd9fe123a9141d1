"""What SLURM is about to do with the job of this process when a signal stops it, and putting it back into the queue."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from expkit.environment import job_name, slurm_ids
from expkit.jobstate import controller_fields
from expkit.spans import span

__all__ = ["Stop", "requeue", "why_stopped"]

log = logging.getLogger("expkit")

#: Seconds to wait for the controller, which may be busy.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Stop:
    """Why SLURM stops a job.

    Attributes:
        why: in one line, for people; "" where that cannot be known.
        needs_requeue: SLURM preempts the job and would requeue it, but only if its processes stayed until the end of
            the partition's GraceTime. One that ends by itself before counts as done, and does not come back.
    """

    why: str = ""
    needs_requeue: bool = False


def why_stopped(job: Mapping[str, str] | None = None, now: float | None = None) -> Stop:
    """Ask the controller why a signal came.

    Args:
        job: ids as `expkit.environment.slurm_ids` gives them; this process's own by default.
        now: seconds since 1970; the present by default.
    """
    job = slurm_ids() if job is None else job
    said = controller_fields(job)
    state, moment = said.get("JobState", ""), time.time() if now is None else now
    left = _seconds(said.get("EndTime")) - moment
    if state == "RUNNING":
        if _seconds(said.get("PreemptTime")):
            return Stop(f"preempted, with {max(left, 0):.0f} s to leave", needs_requeue=True)
        return Stop(f"{span(left)} before the time limit of its job") if left > 0 else Stop()
    if state in ("COMPLETING", "PENDING", "REQUEUED") and _number(said.get("Restarts")) > _number(
        job.get("restart_count")
    ):
        return Stop("its job is being requeued")
    if "TIMEOUT" in state or said.get("Reason") == "TimeLimit":
        return Stop("time limit of its job")
    return Stop("its job is being cancelled") if state in ("COMPLETING", "CANCELLED") else Stop()


def requeue() -> bool:
    """Put the job of this process back into the queue. Return whether that was possible; a refusal is said."""
    name = job_name(slurm_ids())
    if name is None:
        return False
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            ["scontrol", "requeue", name],  # noqa: S607 - wherever the cluster has it
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        trouble = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        trouble = str(error)
    if trouble:
        log.error("SLURM job %s could not be requeued: %s; once it can be: scontrol requeue %s", name, trouble, name)
        return False
    log.info("SLURM job %s is requeued: it goes on from here", name)
    return True


def _seconds(text: str | None) -> float:
    """Return SLURM's time in seconds since 1970; 0 if there is none."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError, OSError):  # Unknown, None
        return 0.0


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
