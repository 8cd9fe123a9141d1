"""A job of a sweep notes in the sweep's folder how it stands, whichever launcher runs it. See `expkit.sweep`."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

import expkit
from expkit.environment import job_name, slurm_ids
from expkit.errors import UserError, describe
from expkit.experiment import RunDir, generate_experiment_id, readable_name
from expkit.secrets import mask_arguments, mask_text
from expkit.status import read_status
from expkit.sweep.folder import JobFile, SweepDir
from train.directory import typed_overrides
from train.report import Outcome

__all__ = ["begin_sweep", "is_sweep", "note_broken", "note_failed", "note_run", "told"]

log = logging.getLogger("expkit")

#: Launchers whose jobs go on by themselves, and how. The presets' names may be anybody's.
_KINDS = {"LocalLauncher": "local", "SlurmLauncher": "slurm"}

_current: list[_Teller] = []


def is_sweep() -> bool:
    """Whether this process sweeps, or runs a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def begin_sweep(config: DictConfig, jobs: int | None = None) -> tuple[SweepDir, bool]:
    """Return the folder of a sweep, and whether it was begun just now: sweep.json is written then.

    Args:
        config: with its section `hydra`.
        jobs: how many it has, None if that is not known yet.
    """
    folder = SweepDir(config.hydra.sweep.dir)
    choices = config.hydra.runtime.choices
    cluster = OmegaConf.select(config, "cluster")
    about = {
        "expkit": expkit.__version__,
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": mask_arguments(sys.orig_argv),
        "overrides": mask_arguments([str(each) for each in config.hydra.overrides.task]),
        "hydra": mask_arguments([str(each) for each in config.hydra.overrides.hydra]),
        "launcher": choices.get("hydra/launcher"),
        "kind": _KINDS.get(str(config.hydra.launcher.get("_target_")).rpartition(".")[2]),
        "sweeper": choices.get("hydra/sweeper"),
        "cluster": choices.get("cluster") if cluster is not None else None,
        "jobs": jobs,
        "outputs": folder.relative(str(config.run.outputs)),
        "suffix": generate_experiment_id("sweep").partition("_")[2],
        "folder": str(Path.cwd()),
        "host": platform.node(),
        "pid": os.getpid(),
    }
    return folder, folder.begin(about)


@contextlib.contextmanager
def told(config: DictConfig) -> Iterator[Callable[[Outcome], None]]:
    """Note that a job of a sweep runs, and how it ends; of what is no sweep, nothing.

    A job whose run was named when it was submitted gets that name here, and goes on with the run if it has begun it
    before: requeued, or submitted again.

    Yields:
        what is to be called with the outcome.
    """
    if not is_sweep():
        yield lambda _: None
        return
    teller = _Teller()
    teller.begin(config)
    _current.append(teller)
    try:
        yield teller.ended
    except BaseException as error:
        teller.broke(error)
        raise
    finally:
        _current.remove(teller)


def note_run(root: Path) -> None:
    """Note which run directory the job that runs has."""
    for teller in _current:
        teller.update(run=teller.folder.relative(root))


def note_broken(error: BaseException) -> None:
    """Note what ended the job that runs, where its process cannot get that far by itself."""
    for teller in _current:
        teller.broke(error)


def note_failed(folder: SweepDir, number: int, overrides: Sequence[str], error: BaseException) -> None:
    """Note that a job has failed before it could begin."""
    job = folder.job(number) or JobFile(number, tuple(overrides))
    _write(folder, replace(job, state="failed", error=_line(error), ended=time.time()))


class _Teller:
    def __init__(self) -> None:
        hydra = HydraConfig.get()
        self.folder = SweepDir(hydra.sweep.dir)
        self.number = int(hydra.job.num)

    def begin(self, config: DictConfig) -> None:
        with contextlib.suppress(OSError):
            if not self.folder.exists():
                begin_sweep(_with_hydra(config))
        overrides = tuple(typed_overrides())
        job = self.folder.job(self.number) or JobFile(self.number, overrides)
        _name_run(self.folder, config, job)
        self.job = replace(
            job,
            overrides=overrides,
            state="running",
            job_id=_job_id() or job.job_id,
            value=None,
            error=None,
            host=platform.node(),
            pid=os.getpid(),
            started=time.time(),
            ended=None,
        )
        _write(self.folder, self.job)

    def update(self, **changes: Any) -> None:
        self.job = replace(self.job, **changes)
        _write(self.folder, self.job)

    def ended(self, outcome: Outcome) -> None:
        """Note the outcome of the run."""
        state = "done" if outcome.state == "finished" else outcome.state
        error = None
        if not outcome.complete:
            state, error = "failed", "its end could not be saved: see its log"
        self.update(
            state=state,
            run=self.folder.relative(outcome.dir),
            value=None if outcome.best_val_loss is None else float(outcome.best_val_loss),
            error=error,
            ended=time.time(),
        )

    def broke(self, error: BaseException) -> None:
        """Note what ended the job. A scheduler's handler leaves the process once the run has been saved."""
        run = self.folder.run_of(self.job)
        said = read_status(RunDir(run).status).get("state") if run is not None else None
        state = str(said) if said in ("preempted", "interrupted") else "failed"
        if isinstance(error, KeyboardInterrupt):
            state = "interrupted"
        line = None if isinstance(error, SystemExit | KeyboardInterrupt) else _line(error)
        gone = run is not None and not RunDir(run).exists()  # nothing had been trained in it
        self.update(state=state, error=line, ended=time.time(), run=None if gone else self.job.run)


def _name_run(folder: SweepDir, config: DictConfig, job: JobFile | None) -> None:
    """Give the run the id that was fixed when its job was submitted; go on with it if the job has begun it before."""
    if job is None or config.run.id is not None or str(config.resume) != "never":
        return
    begun = folder.run_of(job)
    with open_dict(config):
        if (
            begun is not None
            and RunDir(begun).exists()
            and begun.parent.resolve() == Path(config.run.outputs).resolve()
        ):
            config.run.id, config.resume = begun.name, "auto"
        elif job.suffix is not None:
            config.run.id = f"{readable_name(str(config.run.name))}_{job.suffix}"
            if RunDir(Path(config.run.outputs) / config.run.id).exists():
                config.resume = "auto"


def _with_hydra(config: DictConfig) -> DictConfig:
    whole = config.copy()
    with open_dict(whole):
        whole.hydra = HydraConfig.get()
    return whole


def _job_id() -> str | None:
    """Return submitit's name of this job."""
    kind = os.environ.get("SUBMITIT_EXECUTOR")
    return job_name(slurm_ids()) if kind == "slurm" else os.environ.get("SUBMITIT_LOCAL_JOB_ID") if kind else None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) if isinstance(error, UserError) else describe(error)
    return mask_text(text)


def _write(folder: SweepDir, job: JobFile) -> None:
    try:
        folder.jobs.mkdir(parents=True, exist_ok=True)
        folder.write(job)
    except (OSError, orjson.JSONEncodeError) as error:
        log.warning("%s cannot be written (%s): expkit sweep will not know of this", folder.file(job.number), error)
