"""One job of a sweep, in the process that submitit starts for it. Importing this file loads neither torch nor Hydra."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import Any

from expkit.errors import describe
from expkit.importing import importing
from expkit.secrets import mask_text

__all__ = ["JobFailed", "SweepJob"]


class JobFailed(Exception):  # noqa: N818 - it tells what has happened
    """What has failed a job, secrets masked; its log has the traceback."""


@dataclass(frozen=True)
class SweepJob:
    """One job, called in its own process. submitit pickles it, and calls `checkpoint` when it is to be requeued.

    Attributes:
        shared: pickled once for all jobs, as that takes most of the time: Hydra's context, the task function, the
            sweep's configuration, and Hydra's singletons as they were when the jobs were submitted.
        overrides: of the job, all.
        number: of the job in the sweep.
    """

    shared: bytes
    overrides: tuple[str, ...]
    number: int

    def __call__(self) -> None:
        """Run the job. What becomes of it is in the sweep's folder, and its error, raised again, in its log.

        Of several tasks the first does; the others train along, and leave with it.
        """
        with importing():
            from train.processes import lead_or_follow

        try:
            code = lead_or_follow(self._run)
        except Exception as error:  # whatever it is, submitit writes it to files: it may tell a secret
            _refuse_to_tell(error)
            raise
        if code:
            raise SystemExit(code)

    def _run(self) -> int:
        with importing():
            import submitit
            from hydra.core.singleton import Singleton
            from hydra.core.utils import JobStatus, run_job, setup_globals
            from omegaconf import open_dict

            from expkit.sweep.folder import SweepDir
            from train.sweeping import note_failed

            shared = pickle.loads(self.shared)  # noqa: S301 - it came with this object
        context, task_function, whole, singletons = shared
        Singleton.set_state(singletons)
        setup_globals()
        try:
            config = context.config_loader.load_sweep_config(whole, list(self.overrides))
        except Exception as error:  # a resolver of the user's own may raise anything; the table is to say why
            note_failed(SweepDir(whole.hydra.sweep.dir), self.number, self.overrides, error)
            raise
        with open_dict(config.hydra.job):
            config.hydra.job.id = submitit.JobEnvironment().job_id
            config.hydra.job.num = self.number
        done = run_job(
            hydra_context=context,
            task_function=task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if done.status is JobStatus.FAILED:  # Hydra's own way of asking prints the overrides as they were typed
            raise done._return_value
        return 0

    def checkpoint(self) -> Any:
        """Return what a requeued job does: the same, in the run directory that it has."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _refuse_to_tell(error: Exception) -> None:
    """Raise an error without its traceback in place of one that tells a secret: submitit writes it to files."""
    told = "".join(traceback.format_exception(error))
    if mask_text(told) != told:
        raise JobFailed(mask_text(describe(error))) from None
