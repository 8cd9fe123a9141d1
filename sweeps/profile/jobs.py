"""The jobs of a profile: a size each, through submitit: one at a time on this machine, or an array of SLURM's."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.jobstate import job_verdict
from sweeps.executors import Kind, make_executor, slurm_said
from sweeps.profile.result import Profile, failed
from sweeps.profile.supervise import Order, supervise

if TYPE_CHECKING:
    import submitit

__all__ = ["Jobs"]

_LOOK = 0.1
#: Seconds between two looks at SLURM's queue, and those that a file system may take to show a result.
_LOOK_AT_QUEUE, _GRACE = 5.0, 30.0
#: Seconds in which local jobs end that are told to.
_PATIENCE = 10.0


class Jobs:
    """Has sizes measured.

    Args:
        kind, params: of the executor, see `sweeps.executors.make_executor`.
        folder: for submitit's files.
    """

    def __init__(self, kind: Kind, params: Mapping[str, Any], folder: Path) -> None:
        self._kind, self._folder = kind, folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is pickled there has secrets as they were typed
        self._executor = make_executor(kind, params, folder)
        self._open: list[tuple[submitit.Job[Profile], Order]] = []

    def measure(self, orders: Sequence[Order], done: Callable[[Profile], None]) -> None:
        """Have sizes measured, and tell what came of each as soon as it is known.

        Raises:
            KeyboardInterrupt: no job is left then.
        """
        try:
            if self._kind == "slurm":
                self._submit(orders)
                self._wait(done)
                return
            for order in orders:  # one at a time: they would slow each other down
                self._submit([order])
                self._wait(done)
        except BaseException:  # a Ctrl-C too: no job is left behind
            self._cancel()
            raise

    def _submit(self, orders: Sequence[Order]) -> None:
        with _found_by_jobs(), _errors_to(self._folder.parent / "submitit.log"):
            if len(orders) > 1:
                with self._executor.batch():
                    jobs = [self._executor.submit(supervise, order) for order in orders]
            else:
                jobs = [self._executor.submit(supervise, order) for order in orders]
        self._open = list(zip(jobs, orders, strict=True))

    def _wait(self, done: Callable[[Profile], None]) -> None:
        gone: dict[str, float] = {}
        asked = time.monotonic()
        while self._open:
            if self._kind == "slurm" and time.monotonic() - asked > _LOOK_AT_QUEUE:
                for job, _ in self._open:
                    if not _queued(job.job_id):
                        gone.setdefault(job.job_id, time.monotonic())
                asked = time.monotonic()
            for job, order in list(self._open):
                lost = time.monotonic() - gone.get(job.job_id, time.monotonic()) > _GRACE
                if lost or job.paths.result_pickle.exists() or (self._kind != "slurm" and job.done()):
                    self._open.remove((job, order))
                    done(self._result(job, order))
            time.sleep(_LOOK)

    def _result(self, job: submitit.Job[Profile], order: Order) -> Profile:
        if self._kind == "debug" or job.paths.result_pickle.exists():
            try:
                return job.result()
            except Exception as error:  # noqa: BLE001 - whatever happened in the job, or to it
                return failed(order.batch_size, "ERROR", f"its job failed: {_last_line(str(error))}")
        # The process that watches is gone as well, with its whole job.
        array, _, task = job.job_id.partition("_")
        ids = {"job_id": array, "array_job_id": array if task else "", "array_task_id": task}
        verdict = (job_verdict(ids, time.time()) or "") if self._kind == "slurm" else ""
        log = f"; its last line: {last}" if (last := _last_line(job.stderr() or "")) else ""
        if verdict.startswith("OUT_OF_MEMORY"):
            return failed(order.batch_size, "OOM", f"SLURM says {verdict} of job {job.job_id}{log}")
        if verdict.startswith("TIMEOUT"):
            return failed(order.batch_size, "TIMEOUT", f"SLURM says {verdict} of job {job.job_id}{log}")
        said = f"SLURM says {verdict}" if verdict else "it was killed"
        return failed(order.batch_size, "ERROR", f"job {job.job_id} has left no result: {said}{log}")

    def _cancel(self) -> None:
        """End the jobs that are left, and wait until those of this machine are over."""
        for job, _ in self._open:
            with contextlib.suppress(Exception):
                job.cancel(check=False)
        deadline = time.monotonic() + _PATIENCE
        while self._kind == "local" and time.monotonic() < deadline and not all(job.done() for job, _ in self._open):
            time.sleep(_LOOK)
        self._open = []


def _queued(job: str) -> bool:
    """Whether SLURM still has a job to do; if it does not answer, it may."""
    code, said, errors = slurm_said("squeue", "-h", "-j", job, "-o", "%T")
    return bool(said.strip()) if code == 0 else "invalid job id" not in errors.lower()


@contextlib.contextmanager
def _found_by_jobs() -> Iterator[None]:
    """Let the processes that are started now import this package, which need not be installed."""
    before = os.environ.get("PYTHONPATH")
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def _errors_to(file: Path) -> Iterator[None]:
    """Let the processes that are started now write their errors there: submitit's answer Ctrl-C with a traceback."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with file.open("ab") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip(" -")]
    return lines[-1].strip()[:300] if lines else ""
