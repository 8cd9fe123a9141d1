"""What Hydra finds of expkit's sweeps. It imports this at every start, so that all work is done in `sweeps`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["ExpkitSweeper", "LocalLauncher", "SlurmLauncher"]


class _SubmititLauncher(Launcher):
    """Runs jobs through submitit, with the parameters of hydra-submitit-launcher."""

    kind: ClassVar[Any]

    def __init__(self, **params: Any) -> None:
        self.params = params
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has made for the jobs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs and return each one's own value."""
        return self.launch_numbered(job_overrides, range(initial_job_idx, initial_job_idx + len(job_overrides)))

    def launch_numbered(self, job_overrides: Sequence[Sequence[str]], numbers: Sequence[int]) -> Sequence[JobReturn]:
        """Run jobs that have these numbers."""
        from sweeps.launching import launch

        return launch(self, job_overrides, numbers)


class LocalLauncher(_SubmititLauncher):
    """Processes of this machine."""

    kind = "local"


class SlurmLauncher(_SubmititLauncher):
    """A SLURM array."""

    kind = "slurm"


class ExpkitSweeper(BasicSweeper):  # type: ignore[misc]  # Hydra has no types for it
    """Every combination of the values, as Hydra's own sweeper; the sweep's folder says how its jobs stand."""

    def __init__(
        self, max_batch_size: int | None = None, params: DictConfig | None = None, jobs: Sequence[int] | None = None
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.jobs = None if jobs is None else [int(each) for each in jobs]

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs."""
        from sweeps.sweeper import sweep

        return sweep(self, arguments, super().sweep)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose as many jobs as tell whether all can be: a thousand would take minutes."""
        from sweeps.sweeper import covering

        super().validate_batch_is_legal(covering(batch))
