"""One run, from its configuration to its results: what is resumed, where it lies, and as many attempts as it takes."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import ExitStack
from dataclasses import replace

from omegaconf import DictConfig
from rich.console import Console

from expkit.dist import Dist, is_main_process
from expkit.environment import was_requeued
from expkit.errors import RankFailed, ResumeError, UserError
from expkit.experiment import RunDir
from expkit.lock import run_lock
from expkit.requeue import requeue
from train.attempt import Attempt
from train.blaming import rank_logs
from train.directory import fresh_directory, remove_fresh, reopen, typed_overrides
from train.following import plan_of
from train.parts import assemble
from train.processes import ranks
from train.report import Outcome, resume_command
from train.responses import Rewind
from train.resume import Origin, check_same_kind, find_origin, origin_of
from train.staging import staged
from train.sweeping import note_run
from train.threads import compute_threads
from train.unfinished import is_of_this_job, newest_step

__all__ = ["run"]

log = logging.getLogger("expkit")


def run(config: DictConfig, console: Console) -> Outcome:
    """Train what `config` describes, in a fresh run directory or the one that it resumes.

    Raises:
        UserError: the configuration, the data or the run to resume cannot be used. A fresh run that fails so before
            its first record leaves no directory behind, and a run to resume is as it was.
    """
    with ranks(config.trainer) as dist:
        outcome, job = _run(config, console, dist)
        dist.broadcast(outcome.signal)
    if outcome.signal:
        if outcome.needs_requeue and outcome.signal == signal.SIGTERM and _submitit_requeues():
            requeue()  # submitit itself does so at its own signal only; under plain sbatch it is the script's business
        # Last of all: a scheduler's own handler may requeue the job and leave the process.
        job.signals.call_previous()
    return outcome


def _run(config: DictConfig, console: Console, dist: Dist) -> tuple[Outcome, Attempt]:
    """Train in as many attempts as it takes."""
    resume, typed = str(config.resume), typed_overrides()
    if resume == "never" and was_requeued() and not any(each.startswith("resume=") for each in typed):
        resume = "auto"  # the scheduler has started this job again: it is to go on with its own run
    origin = find_origin(resume, config.run.outputs, config.run.id, typed)
    if origin is not None and origin.step is not None and not origin.is_fork and is_of_this_job(RunDir(origin.run)):
        log.info("this SLURM job has gone on from step %d before: it takes the newest checkpoint now", origin.step)
        origin = replace(origin, step=None)
    # What auto finds has the overrides of now, so that it may stand in a file.
    if origin is not None and resume != "auto" and not any(each.lstrip("+").startswith("resume=") for each in typed):
        raise ResumeError("resume belongs on the command line: in a file it would come after the run's own overrides")
    if origin is not None:
        check_same_kind(origin, config)
    job, outcome = _attempt(config, origin, console, dist)
    while outcome.rewind is not None:  # a resume from an earlier checkpoint, without leaving the process
        origin, rewind = origin_of(outcome.dir, outcome.rewind.step), outcome.rewind
        job, outcome = _attempt(config, origin, console, dist, rewind)
    return outcome, job


def _attempt(
    config: DictConfig, origin: Origin | None, console: Console, dist: Dist, rewind: Rewind | None = None
) -> tuple[Attempt, Outcome]:
    """Train until the end, a stop, or a rewind."""
    dist.broadcast(plan_of(config, origin, rewind) if dist.world_size > 1 else None)
    here, copies = staged(config)
    parts = replace(assemble(here, dist), copies=copies)
    resumed = None if origin is None or origin.is_fork else origin
    files = fresh_directory(config, parts.model, origin) if resumed is None else RunDir(resumed.run)
    try:
        with ExitStack() as stack:  # closed before anything is removed: its log is told of the error, too
            stack.enter_context(compute_threads(parts.trainer.threads, dist))
            stack.enter_context(run_lock(files))
            if resumed is not None:
                reopen(config, resumed)
            note_run(files.root)
            job = Attempt(config, origin, parts, files, console, rewind, dist)
            return job, job.run(stack)
    except UserError as error:
        # A rank that has failed has its traceback there, and nowhere else.
        if not (isinstance(error, RankFailed) and rank_logs(files)):
            _remove_if_untouched(files, origin)
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_remains(files, _remove_if_untouched(files, origin))) from None


def _submitit_requeues() -> bool:
    """Whether this is the process of a submitit job that is to requeue it."""
    return "SUBMITIT_EXECUTOR" in os.environ and is_main_process()


def _remove_if_untouched(files: RunDir, origin: Origin | None) -> bool:
    """Remove a fresh run directory in which nothing has been trained. Return whether it was one."""
    recorded = files.metrics.exists() and files.metrics.stat().st_size > 0
    begun = origin.step if origin is not None else None  # with a snapshot's checkpoint
    if (origin is not None and not origin.is_fork) or recorded or newest_step(files) not in (None, begun):
        return False
    remove_fresh(files)
    return True


def _remains(files: RunDir, removed: bool) -> str:
    """Return what is on the disk after an interruption, and what to type."""
    if removed:
        return "interrupted at once, before anything was saved: nothing is left of it"
    step = newest_step(files)
    saved = "has no checkpoint yet" if step is None else f"has everything up to step {step}"
    return f"interrupted at once: {files.root} {saved}; go on with: {resume_command(files.root)}"
