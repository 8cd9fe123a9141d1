"""A run of expkit with everything on, made by the code of `python -m train` from a configuration."""

from __future__ import annotations

import contextlib
import functools
import io
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest import mock

from torch import nn

from benchmarks.problem import Classify, Ready, make_batches, make_model
from expkit.experiment import RunDir
from expkit.status import read_status
from train import runner
from train.api import run_experiment
from train.runner import Runner

__all__ = ["SETTINGS", "ReadyTask", "everything_on"]

T = TypeVar("T")

#: What would be typed after `python -m train --config-dir benchmarks/conf task=ready`.
SETTINGS = (
    *("optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0", "trainer.threads=1", "trainer.device=cpu"),
    "tracker=[wandb,trackio]",
    "delivery.start_timeout=60",  # the clock starts when they have
    "detectors=[standard]",
    "diagnostics=[gradients,activations,sparsity,blob]",
    # Only this matrix is a pair with itself: the network is no autoencoder.
    *('diagnostics.blob.encoder="2"', 'diagnostics.blob.decoder="2"'),
    *("checkpoint=standard", "checkpoint.async_save=true"),
    "plots=[training]",
    "gpu.interval=1",  # the shortest; 10 by default
    # Those of auto in a run of 10,000 steps or more.
    *("trainer.log_interval=50", "checkpoint.save_interval=1000", "plots.training.viz_interval=1000"),
    "run.min_free_gb=0",
)


class ReadyTask(Classify):
    """The network and the batches of all competitors, as a task.

    Args:
        width: of the network's hidden layers.
        size: samples of a batch.
        steps: of an epoch.
        epochs: as many as will be trained.
        warmup: steps before the clock starts.

    Attributes:
        last: the task that was made last.
        batches, model: what it trains on, which has the time, and what it trains.
    """

    last: ClassVar[ReadyTask]

    def __init__(self, width: int, size: int, steps: int, epochs: int, warmup: int) -> None:
        self.batches = Ready(make_batches(steps, size=size), warmup, epochs)
        self.width, self.size = width, size
        ReadyTask.last = self

    def build_model(self) -> nn.Module:
        """Return the network."""
        self.model, _ = make_model(self.width)
        return self.model

    def train_data(self) -> Ready:
        """Return the batches."""
        return self.batches

    def val_data(self) -> Ready:
        """Return one batch: diagnostics need one that is always the same, and a new best makes a checkpoint."""
        return Ready(make_batches(1, size=self.size))


def everything_on(width: int, size: int, steps: int, warmup: int, folder: Path) -> ReadyTask:
    """Train for two epochs of half of the `steps`.

    Args:
        width: of the network's hidden layers.
        size: samples of a batch.
        steps: of the run.
        warmup: steps before the clock starts.
        folder: of run directories. trackio's databases are where TRACKIO_DIR says.

    Returns:
        The task, which has the times and the network.
    """
    beside = _Beside()
    task = {"width": width, "size": size, "steps": steps // 2, "epochs": 2, "warmup": warmup}
    with contextlib.redirect_stderr(io.StringIO()), beside.timed():
        outcome = run_experiment(
            {"task": "ready"},
            outputs=folder,
            overrides=[
                *(f"task.{key}={value}" for key, value in task.items()),
                *SETTINGS,
                "trainer.max_epochs=2",
            ],
            config_dir=Path(__file__).parent / "conf",
        )
    status = read_status(RunDir(outcome.dir).status)
    assert not status["trackers"] and not status["unwritten"], status  # all of it has worked
    ReadyTask.last.batches.beside = statistics.fmean(beside.steps[warmup:-1]) * 1e6  # where the clock runs
    return ReadyTask.last


class _Beside:
    """What the runner does beside the update: who may look at the gradients and does, and all that follows the step.

    Attributes:
        steps: seconds of the training thread's CPU, of each step.
    """

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._step = 0.0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Measure the runs in this context."""
        ask, after_step = runner.before_update, Runner._after_step

        def asked(*arguments: Any) -> Callable[[], object] | None:
            look = self._call(ask, *arguments)
            return None if look is None else functools.partial(self._call, look)

        def followed(runner: Runner) -> bool:
            stop = self._call(after_step, runner)
            self.steps.append(self._step)
            self._step = 0.0
            return stop

        with (
            mock.patch.object(runner, "before_update", asked),
            mock.patch.object(Runner, "_after_step", followed),
        ):
            yield

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        began = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self._step += time.thread_time() - began
