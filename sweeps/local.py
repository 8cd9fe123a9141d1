"""Jobs of a sweep as processes of this machine, so many at once, each with GPUs of its own."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from expkit.errors import ConfigError
from expkit.machine.visible import visible_entries
from expkit.sweep.folder import Submission, SweepDir
from expkit.sweep.jobs import jobs_of
from sweeps.executors import make_executor
from sweeps.interrupt import interruptible
from sweeps.progress import Progress

__all__ = ["run_all", "slots_for"]

_LOOK = 0.2  # seconds between two looks at the processes
_AGAIN = 2.0  # seconds after which a process is asked to end once more: it may not have listened yet


def run_all(
    folder: SweepDir, params: Mapping[str, Any], jobs: Mapping[int, Callable[[], Any]], parallel: int | None
) -> None:
    """Run jobs, and return when all have ended.

    Args:
        folder: of the sweep.
        params: of the launcher.
        jobs: number -> what it does.
        parallel: how many at once; None: one for each GPU, or as many GPUs as a job gets.

    Raises:
        KeyboardInterrupt: somebody has pressed Ctrl-C, or the process was sent TERM or HUP: the jobs have saved and
            ended.
    """
    slots = slots_for(params, parallel)
    waiting = list(jobs)
    running: dict[int, tuple[Any, Mapping[str, Any]]] = {}
    with interruptible(), Progress(folder, set(waiting)) as progress:
        try:
            while waiting or running:
                if waiting and slots:
                    number = waiting.pop(0)
                    if not _is_cancelled(folder, number):
                        slot = slots.pop(0)
                        running[number] = (_start(folder, slot, number, jobs[number]), slot)
                    continue
                time.sleep(_LOOK)
                progress.look()
                for number, (job, slot) in [*running.items()]:
                    if job.done():
                        slots.append(slot)
                        del running[number]
                        _forget(folder, job)
                        _end(folder, number, progress)
            for number in sorted(set(jobs) - progress.over):
                _end(folder, number, progress)
        except KeyboardInterrupt:
            _stop([job for job, _ in running.values()])
            for job, _ in running.values():
                _forget(folder, job)
            place = shlex.quote(str(folder.root))
            raise KeyboardInterrupt(
                f"interrupted: what ran has been saved; the rest: expkit sweep {place} --resubmit unfinished"
            ) from None


def slots_for(params: Mapping[str, Any], parallel: int | None) -> list[Mapping[str, Any]]:
    """Return the parameters with which jobs are started that run at the same time.

    Raises:
        ConfigError: a job is to have more GPUs than there are.
    """
    each, gpus = params.get("gpus_per_node"), _gpus()
    if each and len(gpus) < each:
        raise ConfigError(f"hydra.launcher.gpus_per_node={each}: this machine has {len(gpus)}")
    if parallel is None:
        parallel = max(1, len(gpus) // (each or 1))
    if not gpus or each == 0 or (each is None and parallel == 1):
        return [{**params, "gpus_per_node": each or None}] * parallel
    share = each or max(1, len(gpus) // parallel)
    slots: list[Mapping[str, Any]] = []
    for number in range(parallel):
        first = number * share % (len(gpus) - len(gpus) % share)
        named = shlex.quote(f"CUDA_VISIBLE_DEVICES={','.join(gpus[first : first + share])}")
        slots.append({**params, "gpus_per_node": None, "python": f"env {named} {shlex.quote(sys.executable)}"})
    return slots


def _gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES would call the GPUs that this process sees."""
    import torch

    count, named = torch.cuda.device_count(), visible_entries()
    return [str(each) for each in range(count)] if named is None else [str(each) for each in named[:count]]


def _start(folder: SweepDir, params: Mapping[str, Any], number: int, call: Callable[[], Any]) -> Any:
    """Start a job. Ctrl-C reaches every process of a terminal: the one that watches over the job must not mind it."""
    executor = make_executor("local", params, folder.root / ".submitit" / "%j")
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        job = executor.submit(call)
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
    folder.note(Submission("local", {number: job.job_id}, host=platform.node(), pid=os.getpid()))
    return job


def _forget(folder: SweepDir, job: Any) -> None:
    """Remove what submitit has pickled for a job that is over: it holds what was typed, secrets as well."""
    for file in (folder.root / ".submitit" / str(job.job_id)).glob("*.pkl"):
        with contextlib.suppress(OSError):
            file.unlink()


def _is_cancelled(folder: SweepDir, number: int) -> bool:
    last = [each.kind for each in folder.submitted() if number in each.jobs]
    return last[-1:] == ["cancelled"]


def _end(folder: SweepDir, number: int, progress: Progress) -> None:
    """Note how a job has ended whose process has."""
    progress.look()
    if number in progress.over:
        return
    for job in jobs_of(folder):
        if job.number == number:
            left = job.state in ("queued", "running")  # killed at once, so that not even its files tell
            if left:
                job.why = job.why or "its process ended without a word"
            progress.end(job, "failed" if left else None)


def _stop(jobs: list[Any]) -> None:
    """Ask jobs to save and end, and wait for them. A second Ctrl-C kills them."""
    if jobs:
        print(f"waiting until what runs has saved ({len(jobs)}); Ctrl-C again kills it", file=sys.stderr, flush=True)
    try:
        asked = 0.0
        while any(not job.done() for job in jobs):
            if time.monotonic() - asked >= _AGAIN:
                _signal(jobs, signal.SIGTERM)
                asked = time.monotonic()
            time.sleep(_LOOK)
    except KeyboardInterrupt:
        _signal(jobs, signal.SIGINT)
        _signal(jobs, signal.SIGKILL)


def _signal(jobs: list[Any], number: signal.Signals) -> None:
    for job in jobs:
        if not job.done():
            with contextlib.suppress(OSError):
                job._process.send_signal(number)
