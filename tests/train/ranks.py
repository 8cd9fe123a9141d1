"""Runs of several processes, as torchrun would start them: forked from this one, which has imported everything."""

from __future__ import annotations

import inspect
import json
import math
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # what the first optimizer imports: here, and not in each child

import train.job  # noqa: F401
from expkit.checkpoints.storage import read_checkpoint, step_of
from expkit.dist import Control
from expkit.journal import read_journal, stable
from tests.train.forked import Forked
from tests.train.spread_task import SpreadTask
from train.runner import Runner

__all__ = [
    *("Ranks", "assert_close", "assert_same_run", "at", "events_of", "journal_of", "last_checkpoint", "status_of"),
    "val_loss_of",
]

_TYPED = (
    *("tracker=[]", "plots=[]", "trainer.batch_size=16", "trainer.max_epochs=null"),
    *("trainer.log_interval=4", "trainer.deterministic=true", "trainer.threads=1", "trainer.device=cpu"),
    *("trainer.timeout=60", "checkpoint.save_interval=100", "checkpoint.save.on_best=false", "gpu.enabled=false"),
)

#: What is alike in a checkpoint of one process and of several.
_COMMON = ("model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "loss_history", "metrics")

Setup = Callable[[int], object]


class Ranks:
    """Runs of `SpreadTask` below a folder.

    Args:
        folder: where their directories go, and the option of the task.

    Attributes:
        said: what rank 0 of the last one has said.
    """

    def __init__(self, folder: Path) -> None:
        self.outputs = folder / "outputs"
        self.said = ""
        self._conf = folder / "conf"
        (self._conf / "task").mkdir(parents=True)
        keys = {name: each.default for name, each in inspect.signature(SpreadTask).parameters.items()}
        option = {"_target_": "tests.train.spread_task.SpreadTask", **keys}
        (self._conf / "task" / "spread.yaml").write_text(json.dumps(option))

    def __call__(
        self,
        count: int,
        name: str,
        *typed: str,
        setup: Setup = lambda rank: None,
        code: int | None = 0,
        by_clock: bool = False,
    ) -> Path:
        """Train with `count` processes, and return the run's directory.

        Args:
            count: of processes.
            name: of a new run; one that is there goes on.
            typed: more overrides.
            setup: called in each process with its rank, before it trains.
            code: what rank 0's exit code must be; None where processes are killed, and may notice it of each other.
            by_clock: ranks exchange what they have to do about once a second, and not after each step.
        """
        run = self.outputs / name
        new = ("--config-dir", str(self._conf), "task=spread", *_TYPED, f"run.id={name}")
        if not any(each.startswith("detectors=") for each in typed):
            new = (*new, "detectors=[]")
        words = (f"resume={run}", "--config-dir", str(self._conf)) if run.exists() else new
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

        def set_up(rank: int) -> None:
            place = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({key: str(value) for key, value in place.items()} if count > 1 else {})
            if not by_clock:
                Control._schedule = _at_every_step  # type: ignore[method-assign]
            setup(rank)

        def of(rank: int) -> Callable[[], None]:
            return lambda: set_up(rank)

        ranks = [Forked(self.outputs, *words, *typed, setup=of(rank)) for rank in range(count)]
        for each in ranks:
            each.end()
        self.said, *others = (each.said for each in ranks)
        if code is not None:
            assert ranks[0].code == code, f"{ranks[0].code}: {self.said}"
            assert not any(others), others
        return run


def at(step: int, number: int, of: int | None = None) -> Setup:
    """Return a setup: after `step` rank `of`, or each of them, gets a signal."""

    def set_up(rank: int) -> None:
        after_step = Runner._after_step

        def signalled(self: Runner) -> bool:
            if self.progress.step == step and of in (rank, None):
                os.kill(os.getpid(), number)
            return after_step(self)

        Runner._after_step = signalled  # type: ignore[method-assign]

    return set_up


def _at_every_step(control: Control, step: int, now: float) -> None:
    """Let ranks exchange what they have to do after each step, as one process does: not by the clock."""
    control.elapsed, control._next = now, step + 1


def status_of(run: Path) -> dict[str, Any]:
    """Return status.json of a run."""
    found: dict[str, Any] = json.loads((run / "status.json").read_text())
    return found


def last_checkpoint(run: Path) -> dict[str, Any]:
    """Return the last checkpoint of a run, put together, without what differs by nature."""
    path = max(run.glob("checkpoints/checkpoint_step_*"), key=lambda each: step_of(each) or 0)
    state = read_checkpoint(path)
    state["config"]["run"] = state["config"]["resume"] = state["sampler_state"]["elapsed"] = state["time"] = None
    state["metrics"] = stable(state["metrics"])
    return dict(state)


def journal_of(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run, without what differs by nature."""
    return [stable(entry) for entry in read_journal(run / "logs" / "metrics.jsonl")]


def events_of(run: Path) -> list[dict[str, Any]]:
    """Return the events of a run, without their times."""
    file = run / "logs" / "events.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key != "time"} for line in lines]


def val_loss_of(run: Path, **options: Any) -> float:
    """Return the loss of a run's last model on all validation samples of a task with these options."""
    task = SpreadTask(**options)
    model = task.build_model()
    model.load_state_dict(last_checkpoint(run)["model_state_dict"])
    with torch.no_grad():
        batch = (task.x[: task.n_val], task.y[: task.n_val])
        return float(task.step(model.eval(), batch).loss)


def assert_same_run(run: Path, other: Path) -> None:
    """Assert that two runs have done the same, to float tolerance, and have the same weights and optimizer's state."""
    assert_close(journal_of(run), journal_of(other))
    one, two = last_checkpoint(run), last_checkpoint(other)
    for key in _COMMON:
        assert_close(one[key], two[key], key)


def assert_close(one: Any, other: Any, where: str = "") -> None:
    """Assert that two nested structures are equal, numbers to float tolerance; NaN equals itself."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(
            other, one, rtol=1e-4, atol=1e-6, equal_nan=True, msg=lambda text: f"{where}: {text}"
        )
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_close(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, pair in enumerate(zip(one, other, strict=True)):
            assert_close(*pair, f"{where}/{place}")
    elif isinstance(one, float):
        both_nan = math.isnan(one) and math.isnan(other)
        assert both_nan or math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6), f"{where}: {one} {other}"
    else:
        assert one == other, where
