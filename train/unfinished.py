"""Runs that have not finished: which of them an unchanged command line means (`resume=auto`), or may (`resume=ask`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expkit.checkpoint_file import step_of
from expkit.config_tracker import ConfigTracker
from expkit.ending import ending
from expkit.environment import slurm_ids, was_requeued
from expkit.errors import ResumeError, UserError
from expkit.experiment import RunDir
from expkit.lock import is_free
from expkit.secrets import mask_arguments
from expkit.status import read_status

__all__ = ["Unfinished", "confirm", "find_same", "find_same_name", "is_of_this_job", "newest_step", "unfinished_runs"]


@dataclass(frozen=True)
class Unfinished:
    """A run of the runner's that has not finished.

    Attributes:
        run: its directory.
        stored: its config.json.
        status: its status.json; {} if that is missing or damaged.
    """

    run: RunDir
    stored: Mapping[str, Any]
    status: Mapping[str, Any]

    @property
    def state(self) -> str:
        """How it ended; a run that says that it runs, and does not, was killed."""
        state = self.status.get("state", "killed")
        return "killed" if state in ("starting", "running") else str(state)


def newest_step(run: RunDir) -> int | None:
    """Return the step of the newest checkpoint of a run, valid or not; None if there is none."""
    found = (step_of(path) for path in run.checkpoints.glob("checkpoint_step_*"))
    return max((step for step in found if step is not None), default=None)


def unfinished_runs(outputs: Path) -> Iterator[Unfinished]:
    """Yield the runs in `outputs` that have not finished, the one that was active last first.

    What cannot be read, or is no run of the runner's, is passed over: it may be anybody's.
    """
    active = {}
    for folder in _folders(outputs):
        run = RunDir(folder)
        for file in (run.status, run.config):
            try:
                active[folder] = file.stat().st_mtime
                break
            except OSError:
                continue
    for folder in sorted(active, key=active.__getitem__, reverse=True):
        status = read_status(RunDir(folder).status)
        if status.get("state") == "finished":
            continue
        try:
            stored = ConfigTracker(folder).load_config()
        except UserError:
            continue
        config = stored.get("config")
        if isinstance(config, Mapping) and isinstance(config.get("run"), Mapping):
            yield Unfinished(RunDir(folder), stored, status)


def find_same(
    outputs: Path, overrides: Sequence[str], parent: Mapping[str, Any] | None = None
) -> tuple[Unfinished | None, str]:
    """Return the run that a command line with these overrides goes on with, or None, and why.

    In a SLURM job it is the job's own: the number stays the same when it is requeued. Two jobs that were submitted
    alike never take each other's. A run that is alive is left alone.

    Args:
        outputs: where runs are.
        overrides: as Hydra gets them.
        parent: of a run that was begun with a snapshot, where that was; None: only runs that were not.
    """
    wanted, job = _settings(overrides), _job(slurm_ids())
    whose = f"of SLURM job {'_'.join(job)}" if job else "of these settings"
    alive = []
    for each in unfinished_runs(outputs):
        # Those of the start, too: who resumed it once with others may go back to the command line that started it.
        if each.stored.get("parent") != parent:
            continue
        known = [each.stored.get(key) for key in ("overrides", "first_overrides")]
        if not any(isinstance(stored, list) and _settings(map(str, stored)) == wanted for stored in known):
            continue
        if job and job not in (_job(each.status.get("slurm")), _job(each.stored.get("slurm"))):
            continue
        if is_free(each.run):
            return each, f"the newest unfinished run {whose} ({each.state})"
        alive.append(each.run.root.name)
    running = f"; still running: {', '.join(alive)}" if alive else ""
    return None, f"no unfinished run {whose} in {outputs}{running}"


def is_of_this_job(run: RunDir) -> bool:
    """Whether a run was last trained by the SLURM job that this process belongs to, before it was requeued."""
    job = _job(slurm_ids())
    return bool(job) and was_requeued() and _job(read_status(run.status).get("slurm")) == job


def find_same_name(outputs: Path, name: str) -> Unfinished | None:
    """Return the newest run in `outputs` with this `run.name` that has not finished and is not alive."""
    runs = (each for each in unfinished_runs(outputs) if each.stored["config"]["run"].get("name") == name)
    return next((each for each in runs if is_free(each.run)), None)


def confirm(found: Unfinished) -> bool:
    """Ask on the terminal whether to go on with a run; Enter is yes.

    Raises:
        ResumeError: the input ended without an answer.
        KeyboardInterrupt: Ctrl-C; its text says that nothing was made.
    """
    screen = sys.stderr if sys.stderr.isatty() else sys.stdout
    total = found.status.get("total_steps")
    step = newest_step(found.run)
    where = "the beginning" if step is None else f"step {step}" + (f" of {total}" if total else "")
    ended = ending(found.run, locked=True)  # whoever asks has seen that nobody holds the lock
    how = ended.reason if ended is not None else found.state
    question = f"go on with {found.run.root} from {where} (stopped {_ago(found)} ago: {how})? [Y/n] "
    try:
        while True:
            print(question, end="", file=screen, flush=True)
            line = sys.stdin.readline()
            answer = line.strip().lower()
            if not line:
                print(file=screen)
                raise ResumeError("resume=ask: no answer was given, so nothing was started")
            if answer in ("", "y", "yes", "n", "no"):
                return answer in ("", "y", "yes")
    except KeyboardInterrupt:
        print(file=screen)
        raise KeyboardInterrupt("resume=ask: interrupted, so nothing was started") from None


def _folders(outputs: Path) -> list[Path]:
    try:
        return list(outputs.iterdir())
    except OSError:
        return []


def _settings(overrides: Any) -> dict[str, str]:
    """Return key -> override, secrets masked as they are stored; without what says only where and how to start."""
    settings = {}
    for override in mask_arguments(list(overrides)):
        key = override.partition("=")[0].lstrip("+~")
        if key not in ("resume", "run.outputs") and not key.startswith(("hydra.", "hydra/", "sweep.")):
            settings[key] = override
    return settings


def _job(slurm: Any) -> tuple[str, ...]:
    """Return what names a SLURM job as long as it lives: its number, or those of its array and task; () if none."""
    if not isinstance(slurm, Mapping):
        return ()
    for keys in (("array_job_id", "array_task_id"), ("job_id",)):
        if all(slurm.get(key) for key in keys):
            return tuple(str(slurm[key]) for key in keys)
    return ()


def _ago(found: Unfinished) -> str:
    """Return how long ago a run last gave a sign of life, in one unit."""
    heartbeat = found.status.get("heartbeat_time")
    if not isinstance(heartbeat, int | float):
        heartbeat = found.run.config.stat().st_mtime
    seconds = max(0.0, time.time() - heartbeat)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return f"{seconds:.0f} seconds"
