"""How and why a run ended: what it said itself, and for one that was killed what the machine and SLURM still know."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expkit.events import read_events
from expkit.experiment import RunDir
from expkit.files import process_alive
from expkit.jobstate import job_verdict
from expkit.journal.last import last_entries
from expkit.machine.vitals import boot_id, boot_time, oom_kills
from expkit.status import read_status

__all__ = ["Ending", "ending", "life_sign"]

#: Seconds without a heartbeat (it comes every 5 s) after which a run gives no sign of life.
_SILENT_AFTER = 30.0
#: Seconds: a machine that was started again so soon after the last heartbeat took the run with it.
_WITH_MACHINE = 600.0
_NEARLY_FULL = 0.9

_UNKNOWN_KILL = "without a word: SIGKILL, or a crash in native code"


@dataclass(frozen=True)
class Ending:
    """What is known of how a run ended.

    Attributes:
        state: finished, interrupted, preempted, failed, or killed; silent if its process is there but says nothing.
        why: the reason in one line, "" if there is none to give.
        certain: whether the reason was said by the run itself or by SLURM; otherwise it is what is likely.
        step: the last one that is known of, or None.
        last_event: of a run that failed or was killed, the last entry of events.jsonl, or None.
    """

    state: str
    why: str = ""
    certain: bool = True
    step: int | None = None
    last_event: Mapping[str, Any] | None = None

    @property
    def clean(self) -> bool:
        """Whether it ended at its end."""
        return self.state == "finished"

    @property
    def reason(self) -> str:
        """State and reason in one line."""
        return f"{self.state} ({self.why})" if self.why else self.state

    @property
    def text(self) -> str:
        """State, reason and step in one line."""
        seen = "last seen at" if self.state in ("killed", "silent") else "at"
        return self.reason + (f", {seen} step {self.step}" if self.step is not None else "")

    @property
    def event_text(self) -> str:
        """The last event and its step in one line, or ""."""
        event = self.last_event
        return f"{event['kind']} at step {event['step']}: {event['message']}" if event is not None else ""

    def __str__(self) -> str:
        return self.text + (f"; last event: {self.event_text}" if self.last_event is not None else "")


def ending(run: RunDir, locked: bool = False, root: Path = Path("/")) -> Ending | None:
    """Return how a run ended, as far as that can be known here and now; None if it lives or nothing is known.

    What it said itself comes first. Of a run that was killed without a word, its last heartbeat noted what SLURM, and
    on the same machine the kernel, are asked about. Nothing is written, and nothing that cannot be read is an error.

    Args:
        run: its directory.
        locked: the caller holds its lock, so that on no other host it is alive.
        root: where /proc and /sys are, for tests.
    """
    status = read_status(run.status)
    state = status.get("state")
    step = status.get("step") if isinstance(status.get("step"), int) else None
    if state == "finished":
        return Ending(state, step=step)
    if state in ("interrupted", "preempted"):
        known = _said(status, "scheduler")  # asked when the signal came
        said = [_said(status, "signal"), known or (_slurm(status) if state == "preempted" else "")]
        return Ending(state, "; ".join(filter(None, said)), step=step)
    if state == "failed":
        return Ending(state, _failure(status), step=step, last_event=_last_event(run))
    if state not in ("starting", "running"):
        return None
    sign = life_sign(status, locked, root)
    if sign == "alive":
        return None
    step = _newest_step(run, step)
    if sign == "silent":
        why = f"process {status.get('pid')} is there, but has said nothing for {_age(status):.0f} s"
        why += ": it is suspended, hangs, or cannot write here"
        return Ending("silent", why, False, step, _last_event(run))
    why, certain = _killed(status, root)
    return Ending("killed", why, certain, step, _last_event(run))


def life_sign(status: Mapping[str, Any], locked: bool = False, root: Path = Path("/")) -> str:
    """Return `alive`, `silent` (its process is there, but there is no heartbeat) or `dead`, of a run that says it runs.

    Args:
        status: its status.json.
        locked: the caller holds its lock.
        root: where /proc is, for tests.
    """
    quiet = _age(status) > _SILENT_AFTER
    if status.get("host") != platform.node():
        return "dead" if quiet or locked else "alive"
    pid = status.get("pid")
    there = isinstance(pid, int) and pid > 0 and not _restarted(status, root) and _is_it(pid, status)
    if not there:
        return "dead"
    return "silent" if quiet and pid != os.getpid() else "alive"


def _killed(status: Mapping[str, Any], root: Path) -> tuple[str, bool]:
    """Return why a run was killed without a word, and whether that is certain."""
    slurm = _slurm(status)
    if status.get("host") != platform.node():
        there = f"whether for memory can be seen on {status.get('host') or 'its host'} only"
        return (slurm, True) if slurm else (f"{_UNKNOWN_KILL}; {there}{_memory(status)}", False)
    if _restarted(status, root):
        why = _machine_restarted(status, root)
        return ("; ".join(filter(None, (slurm, why))), bool(slurm))
    counted = _kills_since(status, root)
    if counted:
        why = f"SIGKILL, most likely for memory: its cgroup counted {_times(counted)} since the last heartbeat"
    elif counted == 0:
        why = f"{_UNKNOWN_KILL}; its cgroup counted no out-of-memory kill"
    else:
        gone = (
            "its cgroup is gone" if _numbers(status).get("oom_kills") is not None else "nothing counts such kills here"
        )
        why = f"{_UNKNOWN_KILL}; whether for memory is not known, as {gone}"
    if slurm and not counted:
        return slurm + _memory(status), True
    # A daemon that makes room before the kernel has to (systemd-oomd, earlyoom) is not counted.
    memory = _memory(status, least=_NEARLY_FULL if counted == 0 else 0.0)
    return "; ".join(filter(None, (slurm, why))) + memory, bool(slurm)


def _failure(status: Mapping[str, Any]) -> str:
    """Return the error that a run ended with, and whether processes of its own were killed meanwhile."""
    numbers = _numbers(status)
    kills = numbers.get("oom_kills", 0) - numbers.get("oom_kills_before", 0)
    said = [_said(status, "error"), f"its cgroup counted {_times(kills)} while it ran" if kills > 0 else ""]
    return "; ".join(filter(None, said))


def _machine_restarted(status: Mapping[str, Any], root: Path) -> str:
    booted, beat = boot_time(root), status.get("heartbeat_time")
    if booted is None or not isinstance(beat, int | float):
        return f"{_UNKNOWN_KILL}; its machine has been restarted since"
    later = max(0.0, booted - beat)
    if later <= _WITH_MACHINE:
        return f"most likely with its machine, which was restarted {later:.0f} s after the last heartbeat"
    return f"{_UNKNOWN_KILL}; its machine was restarted only {later / 3600:.1f} h later, and no longer knows why"


def _kills_since(status: Mapping[str, Any], root: Path) -> int | None:
    """Return how many out-of-memory kills the run's cgroup has counted since the last heartbeat, or None."""
    machine, before = status.get("machine"), _numbers(status).get("oom_kills")
    if not isinstance(machine, Mapping) or before is None or not isinstance(machine.get("cgroup"), str):
        return None
    group = root / machine["cgroup"].lstrip("/")
    try:
        if group.stat().st_ino != machine.get("cgroup_id"):  # another one, made anew under the same name
            return None
    except (OSError, ValueError):
        return None
    now = oom_kills(group)
    return now - int(before) if now is not None and now >= before else None


def _restarted(status: Mapping[str, Any], root: Path) -> bool:
    machine = status.get("machine")
    then, now = machine.get("boot_id") if isinstance(machine, Mapping) else None, boot_id(root)
    return None not in (then, now) and then != now


def _is_it(pid: int, status: Mapping[str, Any]) -> bool:
    """Whether process `pid` is the one that wrote `status`: it was there at its last heartbeat, and has not ended."""
    if not process_alive(pid):
        return False
    import psutil

    try:
        process = psutil.Process(pid)
        beat = status.get("heartbeat_time")
        late = isinstance(beat, int | float) and process.create_time() > beat + 2  # a second of rounding on each side
        return not late and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):
        return True


def _slurm(status: Mapping[str, Any]) -> str:
    job, beat = status.get("slurm"), status.get("heartbeat_time")
    if not isinstance(job, Mapping) or not job or not isinstance(beat, int | float):
        return ""
    verdict = job_verdict({str(key): str(value) for key, value in job.items()}, beat)
    return f"SLURM says {verdict}" if verdict else ""


def _last_event(run: RunDir) -> dict[str, Any] | None:
    try:
        return next(reversed(read_events(run.events)), None)
    except OSError:
        return None


def _newest_step(run: RunDir, step: int | None) -> int | None:
    """Return the last step in the journal if it is later than that of the last heartbeat."""
    steps = [entry["step"] for entry in last_entries(run.metrics)]
    return max([*steps, step or 0]) if steps else step


def _memory(status: Mapping[str, Any], least: float = 0.0) -> str:
    """Return how much memory was in use at the last heartbeat, if that was at least such a part of the limit."""
    numbers = _numbers(status)
    used, limit = (numbers.get(f"memory_{name}_gb") for name in ("used", "limit"))
    if not used or not limit or used < least * limit:
        return ""
    return f"; memory at the last heartbeat: {used:.3g} of {limit:.3g} GB"


def _numbers(status: Mapping[str, Any]) -> dict[str, float]:
    machine = status.get("machine")
    items = machine.items() if isinstance(machine, Mapping) else ()
    return {name: value for name, value in items if isinstance(value, int | float)}


def _said(status: Mapping[str, Any], name: str) -> str:
    value = status.get(name)
    return " ".join(value.split()) if isinstance(value, str) else ""


def _age(status: Mapping[str, Any]) -> float:
    beat = status.get("heartbeat_time")
    return time.time() - beat if isinstance(beat, int | float) else math.inf


def _times(kills: float) -> str:
    return "one out-of-memory kill" if kills == 1 else f"{kills:.0f} out-of-memory kills"
