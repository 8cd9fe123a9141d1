"""Whole runs for the tests of faults: tiny ones, in children of a process that has imported everything already."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

import train.cli.main  # the resolvers of the configuration
from expkit.checkpoints import CheckpointManager
from expkit.checkpoints.storage import step_of
from expkit.errors import UserError
from expkit.journal import read_journal, stable
from expkit.status import StatusFile
from tests.faults.injector import FaultInjector, Operation, run_in_child
from train.config.compose import compose, hydra_with
from train.display import console_logging
from train.job import run as run_job
from train.runner import Runner

__all__ = [
    *("INCOMPLETE", "REFUSED", "STEPS", "Whole"),
    *("assert_ends_like", "assert_one_line", "journal", "lines", "newest", "recorded", "status", "train", "weights"),
]

STEPS = 12
REFUSED, INCOMPLETE = 1, 3

#: Five updates an epoch; checkpoints of steps 3, 6, 9, 12, and of the best of each epoch. The order of operations is
#: the same every time only if training waits for each checkpoint.
_TYPED = (
    *("task=tiny", "tracker=[]", "plots=[]", "trainer.batch_size=4", f"trainer.max_steps={STEPS}"),
    *("trainer.log_interval=1", "trainer.deterministic=true", "trainer.threads=1", "trainer.device=cpu"),
    *("checkpoint.save_interval=3", "checkpoint.keep_last_n=2", "run.min_free_gb=0"),
)


def train(
    run: Path,
    resume: str | Path | None = None,
    faults: FaultInjector | None = None,
    said: Path | None = None,
    kill_after: float | None = None,
    at_step: Callable[[int], object] | None = None,
    beside: bool = False,
) -> int:
    """Train in the directory `run`, in a process of its own.

    Args:
        run: the run directory.
        resume: the run or the checkpoint to go on from; None for a fresh run.
        faults: what happens to it.
        said: a file for what it says.
        kill_after: seconds until it gets a SIGKILL.
        at_step: called in the child after each update, before anything is written about it.
        beside: save while training goes on.

    Returns:
        0; REFUSED, in one line; INCOMPLETE: it has trained to its end, and not all of that could be saved; 70 for
        anything else; negative if a signal ended it.
    """
    composed = _composed("never" if resume is None else "latest", beside)

    def work() -> int:
        if at_step is not None:
            _watch(at_step)
        with faults or contextlib.nullcontext():
            return _train(copy.deepcopy(composed), run, resume)

    torch.set_num_threads(1)  # a child must not find the threads of its parent gone
    return run_in_child(work, said, kill_after)


def _watch(at_step: Callable[[int], object]) -> None:
    after_step = Runner._after_step

    def watched(self: Runner) -> bool:
        at_step(self.progress.step)
        return after_step(self)

    Runner._after_step = watched  # type: ignore[method-assign]


def _train(config: DictConfig, run: Path, resume: str | Path | None) -> int:
    HydraConfig.instance().set_config(copy.deepcopy(config))
    with open_dict(config):
        del config["hydra"]
        config.run.outputs, config.run.id = str(run.parent), run.name
        config.resume = "never" if resume is None else str(resume)
    try:
        # Without heartbeats, which come by the clock: operations have the same numbers in each run.
        with mock.patch.object(StatusFile, "_beat", lambda _: None):
            outcome = run_job(config, console_logging())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    return 0 if outcome.complete else INCOMPLETE


@functools.cache
def _composed(resume: str, beside: bool) -> DictConfig:
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task"
        task.mkdir()
        (task / "tiny.yaml").write_text("_target_: tests.train.helpers.Regression\ndropout: 0.3\n")
        with hydra_with([folder]):
            typed = [*_TYPED, f"checkpoint.async_save={str(beside).lower()}"]
            return compose([*typed, *([] if resume == "never" else [f"resume={resume}"])])


def recorded(run: Path, resume: str | Path | None = None, beside: bool = False) -> list[Operation]:
    """Train as `train` does, in this process, and return the operations below `run`."""
    composed = copy.deepcopy(_composed("never" if resume is None else "latest", beside))
    with _signals_kept(), FaultInjector(run) as injector:
        assert _train(composed, run, resume) == 0
    return injector.seen


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def newest(run: Path) -> int:
    """Return the step of the newest valid checkpoint, or 0."""
    path = CheckpointManager(run).latest_path()
    step = step_of(path) if path is not None else None
    return step or 0


def weights(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    """Return the model's state in a checkpoint."""
    path = run / "checkpoints" / f"checkpoint_step_{step}.pt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model_state_dict"]
    return state


def journal(run: Path) -> list[str]:
    """Return the comparable entries of a run, as text: NaN equals NaN there."""
    return [repr(stable(entry)) for entry in read_journal(run / "logs" / "metrics.jsonl")]


def lines(run: Path) -> set[str]:
    """Return all records of a run that are anywhere in its logs, cut off or not."""
    return {repr(entry) for file in (run / "logs").glob("metrics*.jsonl") for entry in read_journal(file)}


def status(run: Path) -> dict[str, Any]:
    """Return the content of status.json."""
    content: dict[str, Any] = json.loads((run / "status.json").read_bytes())
    return content


class Whole(NamedTuple):
    """A run that nothing has troubled, and how it went."""

    path: Path
    operations: list[Operation]
    seconds: float

    def index(self, kind: str, name: str) -> int:
        """Return the number of the first such operation."""
        found = (at for at, op in enumerate(self.operations) if op.kind == kind and op.path.name.startswith(name))
        return next(found)

    def committed(self, at: int) -> int:
        """Return the step of the newest checkpoint that was there before operation `at`."""
        renamed = (op.path for op in self.operations[:at] if op.kind == "replace")
        return max((step for path in renamed if (step := step_of(path)) is not None), default=0)


def assert_ends_like(whole: Path, run: Path) -> None:
    """Weights and journal are those of a run that nothing has troubled, bit for bit."""
    one, other = weights(whole), weights(run)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert journal(run) == journal(whole)


def assert_one_line(said: Path, error: bool) -> None:
    """Nothing was said as a traceback; with `error` the last line says why it ended."""
    text = said.read_text()
    assert "Traceback" not in text, text
    assert "Logging error" not in text, text
    if error:
        assert text.splitlines()[-1].startswith("error: "), text
