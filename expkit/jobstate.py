"""What SLURM says of how a job ended: from its accounting where there is one, else from the controller."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from expkit.environment import job_name
from expkit.slurm_command import ask_slurm

__all__ = ["controller_fields", "job_verdict", "node_address"]

#: Seconds to wait for each command: somebody may be looking at the answer.
_PATIENCE = 5.0
#: Seconds by which the clocks of a node and of the controller may differ.
_CLOCKS = 60.0

#: States that say why a job's processes ended, the plainest first. Those of steps count: a job whose step was out of
#: memory may be called FAILED.
_TELLING = (
    *("OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "DEADLINE", "BOOT_FAIL"),
    *("CANCELLED", "REVOKED", "REQUEUED"),
)


@dataclass(frozen=True)
class _Row:
    """A job or one of its steps, as a command prints it."""

    step: bool
    state: str
    exit_code: str
    start: float | None


def job_verdict(job: Mapping[str, str], moment: float) -> str | None:
    """Return the state in which SLURM says that a job ended, `OUT_OF_MEMORY` or `FAILED (SIGSEGV)` say, or None.

    A requeued job has the same number each time it runs: it is the one that had begun by `moment` that counts.

    Args:
        job: its ids as `expkit.environment.slurm_ids` gives them.
        moment: when it was alive last, in seconds since 1970.
    """
    name = job_name(job)
    if name is None:
        return None
    return _verdict(_accounted(name), moment) or _verdict(_known_to_controller(name), moment)


def _verdict(rows: Sequence[_Row], moment: float) -> str | None:
    runs: list[list[_Row]] = []
    for row in rows:
        if row.step and runs:
            runs[-1].append(row)
        else:
            runs.append([row])
    begun = [run for run in runs if run[0].start is not None and run[0].start <= moment + _CLOCKS]
    if not begun:
        return None
    last = max(begun, key=lambda run: run[0].start or 0.0)
    for telling in _TELLING:
        for row in last:
            if row.state.startswith(telling):
                return row.state
    return next((f"FAILED ({_signal(row)})" for row in last if row.state == "FAILED" and _signal(row)), None)


def _signal(row: _Row) -> str | None:
    """Return the name of the signal that ended it: SLURM gives `code:signal`, a shell 128 and the signal."""
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", row.exit_code)
    if found is None:
        return None
    code, number = int(found[1]), int(found[2])
    try:
        return signal.Signals(number or code - 128).name
    except ValueError:
        return None


def _accounted(name: str) -> list[_Row]:
    """Ask the accounting: every time that the job ran, each with its steps."""
    said = _said("sacct", "-j", name, "-D", "-n", "-P", "-o", "JobID,State,ExitCode,Start")
    lines = [line.strip().split("|") for line in said.splitlines()]
    return [_Row("." in line[0], line[1], line[2], _time(line[3])) for line in lines if len(line) == 4]


def _known_to_controller(name: str) -> list[_Row]:
    """Ask the controller, which forgets a job some minutes after its end."""
    rows = []
    for fields in _controller(name):
        start = _time(fields.get("StartTime", ""))
        rows.append(_Row(False, fields["JobState"], fields.get("ExitCode", ""), start))
    return rows


def controller_fields(job: Mapping[str, str]) -> dict[str, str]:
    """Return what the controller says of a job (JobState, Restarts, EndTime ...); {} if nothing.

    Args:
        job: its ids as `expkit.environment.slurm_ids` gives them.
    """
    name = job_name(job)
    found = _controller(name) if name is not None else []
    return found[0] if len(found) == 1 else {}


def node_address(node: str) -> str | None:
    """Return the address that the controller has for a node, or None."""
    found = re.search(r"\bNodeAddr=(\S+)", _said("scontrol", "-o", "show", "node", node))
    return found[1] if found else None


def _controller(name: str) -> list[dict[str, str]]:
    lines = _said("scontrol", "-o", "show", "job", name).splitlines()
    jobs = [dict(each.partition("=")[::2] for each in line.split()) for line in lines]
    return [fields for fields in jobs if "JobState" in fields]


def _time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):  # Unknown, None
        return None


def _said(*command: str) -> str:
    code, said, _ = ask_slurm(*command, timeout=_PATIENCE)
    return said if code == 0 else ""
