"""A batch of a sweep's jobs through submitit: written down, submitted, waited for or not, each with its own value."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from expkit.errors import ConfigError, UserError
from expkit.experiment import readable_name
from expkit.printable import printable
from expkit.secrets import MASK, mask_arguments
from expkit.sweep.folder import JobFile, Submission, SweepDir
from sweeps.executors import Kind, check_executor
from sweeps.job import SweepJob
from sweeps.resubmit import must_be_typed
from sweeps.settings import Settings, settings_of
from train.cli.main import note_failure
from train.config.build import extra_folders
from train.config.cluster import check_cluster
from train.sweeping import begin_sweep

__all__ = ["SweepJob", "launch", "say_end"]

_OWN_SWEEPER = "ExpkitSweeper"


def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[JobReturn]:
    """Run jobs, or submit them and return (`sweep.wait=false`).

    Args:
        launcher: one of `hydra_plugins.expkit_launcher`, set up.
        job_overrides: of each job, all.
        numbers: of each job, in the sweep.

    Returns:
        each job's own value: None of one that failed, or was not waited for. Sweepers count that as a failure.

    Raises:
        UserError: it cannot be submitted. Nothing was.
        KeyboardInterrupt: whose text says what goes on, and what to type.
    """
    config: DictConfig = launcher.config
    kind: Kind = launcher.kind
    settings = settings_of(config)
    own = str(config.hydra.sweeper.get("_target_")).endswith(_OWN_SWEEPER)
    if not settings.wait and not own:
        raise ConfigError(
            "sweep.wait=false: this sweeper needs each job's value to choose the next: leave it out, and start the "
            "sweep in the background (nohup ... &)"
        )
    params = {key: _plain(value) for key, value in launcher.params.items()}
    if params.get("name") == config.hydra.job.name:  # that of a file of ours, which tells nobody anything
        params["name"] = readable_name(run_name(config))
    _check_section(config)
    check_executor(kind, params)
    if kind == "local":
        from sweeps.local import slots_for

        slots_for(params, settings.parallel)
    folder, begun = begin_sweep(config)
    if kind == "local" and settings.wait and (own or begun):  # once, in however many batches jobs come
        print(f"how its jobs stand: expkit sweep {shlex.quote(str(folder.root))}")
    if kind == "local" and not settings.wait:
        _refuse_hidden(job_overrides, numbers)
    (folder.root / ".submitit").mkdir(mode=0o700, exist_ok=True)  # what is pickled there has secrets as they were typed
    known = len(folder.submitted())
    if kind == "local" and settings.wait:  # who cancels jobs is heard from now on
        folder.note(Submission("local", dict.fromkeys(numbers), host=platform.node(), pid=os.getpid()))
    _write_queued(folder, config, job_overrides, numbers)
    try:
        _run(launcher, kind, settings, folder, params, job_overrides, numbers)
    except BaseException:  # a Ctrl-C too: jobs that were not submitted are not to be waited for
        there = {number for each in folder.submitted()[known:] for number in each.jobs}
        if left := [number for number in numbers if number not in there]:
            folder.note(Submission("cancelled", dict.fromkeys(left)))
        raise
    if settings.wait and not own and any(_state(folder, number) != "done" for number in numbers):
        note_failure()
    return [_returned(folder, number, overrides) for overrides, number in zip(job_overrides, numbers, strict=True)]


def _run(
    launcher: Any,
    kind: Kind,
    settings: Settings,
    folder: SweepDir,
    params: Mapping[str, Any],
    job_overrides: Sequence[Sequence[str]],
    numbers: Sequence[int],
) -> None:
    """Submit jobs, and wait for them if that is wanted."""
    if kind == "local" and not settings.wait:
        _detach(folder, launcher.config.hydra.overrides.hydra, job_overrides, numbers)
        return
    config = launcher.config
    shared = cloudpickle.dumps((launcher.hydra_context, launcher.task_function, config, Singleton.get_state()))
    jobs = {
        number: SweepJob(shared, tuple(overrides), number)
        for overrides, number in zip(job_overrides, numbers, strict=True)
    }
    if kind == "slurm":
        from sweeps.slurm import submit, wait

        submit(folder, params, jobs)
        if settings.wait:
            wait(folder, numbers)
    else:
        from sweeps.local import run_all

        run_all(folder, params, jobs, settings.parallel)


def say_end(folder: SweepDir, numbers: Sequence[int] | None = None) -> None:
    """Say how jobs have ended, and let the exit code tell whether one has failed.

    Args:
        folder: of the sweep.
        numbers: of the jobs; None for all.
    """
    found = [job for number in (folder.numbers() if numbers is None else numbers) if (job := folder.job(number))]
    done = [job for job in found if job.state == "done"]
    failed = [job for job in found if job.state == "failed"]
    stopped = len(found) - len(done) - len(failed)
    for job in failed:
        print(printable(f"job {job.number} failed: {job.error or 'see its log'}"), file=sys.stderr)
    more = f", {stopped} stopped" if stopped else ""
    print(f"{len(done)} done, {len(failed)} failed{more}; the table: expkit sweep {shlex.quote(str(folder.root))}")
    if failed or stopped:
        note_failure()


def _check_section(config: DictConfig) -> None:
    """Refuse a cluster's file that every job would refuse."""
    with contextlib.suppress(OmegaConfBaseException):  # it takes variables that are there on a node only
        check_cluster(OmegaConf.select(config, "cluster"))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _write_queued(
    folder: SweepDir, config: DictConfig, job_overrides: Sequence[Sequence[str]], numbers: Sequence[int]
) -> None:
    """Write down every job as it is before it is submitted: with its run's directory, where that is known by now."""
    suffix = folder.read().get("suffix")
    width = len(str(max(numbers)))
    name, fixed = readable_name(run_name(config)), {str(each) for each in config.hydra.overrides.task}
    alike = _is_alike(config)
    free = config.run.id is None and str(config.resume) == "never" and isinstance(suffix, str)
    for overrides, number in zip(job_overrides, numbers, strict=True):
        before = folder.job(number) or JobFile(number)
        end = before.suffix or (f"{suffix}-{number:0{width}}" if free else None)
        known = alike and end is not None and all(each in fixed or _leaves_name(each) for each in overrides)
        run = before.run or (folder.relative(Path(config.run.outputs) / f"{name}_{end}") if known else None)
        job = JobFile(number, tuple(overrides), suffix=end, run=run)
        folder.write(replace(job, job_id=None))


def run_name(config: DictConfig) -> str:
    """Return `run.name`, which asks Hydra what was chosen: outside a job Hydra has not been told yet."""
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(config)
    try:
        return str(config.run.name)
    finally:
        hydra.cfg = before


def _is_alike(config: DictConfig) -> bool:
    """Whether values have no part in what runs are called: a name may be made of them, `lr${optimizer.lr}` say."""
    section: Any = OmegaConf.to_container(config.run, resolve=False)
    name = str(section["name"]).replace("${run_name:${run.variant}}", "").replace("${run.variant}", "")
    return "${" not in name + str(section["variant"])


def _leaves_name(override: str) -> bool:
    """Whether an override cannot change what a run is called: it is a single value, of no section that names runs."""
    key = override.partition("=")[0]
    return "." in key and "/" not in key and not key.lstrip("+~").startswith("run.")


def _returned(folder: SweepDir, number: int, overrides: Sequence[str]) -> JobReturn:
    job = folder.job(number)
    done = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    done.return_value = job.value if job is not None and job.state == "done" else None
    return done


def _detach(
    folder: SweepDir, hydra_overrides: Sequence[str], job_overrides: Sequence[Sequence[str]], numbers: Sequence[int]
) -> None:
    """Let a process of its own start the jobs one after the other."""
    shared = [each for each in job_overrides[0] if all(each in overrides for overrides in job_overrides)]
    typed = [*(str(each) for each in hydra_overrides), *shared]
    named = [each for each in typed if must_be_typed(each)]  # what could make something run is taken from here alone
    folders = [word for each in extra_folders for word in ("--config-dir", str(each))]
    command = [sys.executable, "-m", "sweeps.resubmit", str(folder.root), ",".join(map(str, numbers))]
    command += [*folders, *named, "sweep.wait=true"]
    with folder.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    folder.note(Submission("local", dict.fromkeys(numbers), host=platform.node(), pid=process.pid))
    print(
        f"{len(numbers)} job{'s are' if len(numbers) > 1 else ' is'} run by process {process.pid} on its own: "
        f"expkit sweep {shlex.quote(str(folder.root))}"
    )


def _refuse_hidden(job_overrides: Sequence[Sequence[str]], numbers: Sequence[int]) -> None:
    for overrides, number in zip(job_overrides, numbers, strict=True):
        if any(MASK in each for each in mask_arguments(overrides)):
            raise UserError(
                f"the overrides of job {number} hold what looks like a secret, which is written nowhere, so that with "
                "sweep.wait=false no other process could start it: take it from the environment "
                "(KEY=${oc.env:NAME}), or wait"
            )


def _state(folder: SweepDir, number: int) -> str:
    job = folder.job(number)
    return job.state if job is not None else "failed"
