"""A runner that goes on from its state ends bit for bit as if it had never stopped."""

from __future__ import annotations

import copy
import functools
import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from expkit.journal import decode, encode, stable
from expkit.rng import rng_state, set_rng_state
from tests.train.helpers import FUSED, Bad, Regression, Run, same
from tests.train.observed import Unsized, WeightNorm
from train.optim.sgld import SGLD
from train.runner import Runner
from train.schedulers import cosine


def snapshot(run: Run) -> bytes:
    """All that a checkpoint needs, as a file whose loading admits plain types and tensors only."""
    update = run.runner.update
    state = {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict() if run.scheduler else None,
        "scaler": update.scaler.state_dict() if update.scaler else None,
        "guards": [guard.state_dict() for guard in update.guards],
        "runner": run.runner.state_dict(),
        "rng": rng_state(),
    }
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def restore(run: Run, content: bytes) -> None:
    state = torch.load(io.BytesIO(content), weights_only=True)
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.scheduler:
        run.scheduler.load_state_dict(state["scheduler"])
    if run.runner.update.scaler:
        run.runner.update.scaler.load_state_dict(state["scaler"])
    for guard, saved in zip(run.runner.update.guards, state["guards"], strict=True):
        guard.load_state_dict(saved)
    run.runner.load_state_dict(state["runner"])
    set_rng_state(state["rng"])


def entries(run: Run, after: int = 0) -> list[str]:
    """The comparable journal entries later than a step, as text: NaN equals NaN there."""
    return [repr(stable(decode(encode(record)))) for record in run.records if record.step > after]


def options(case: str) -> dict[str, Any]:
    """A configuration to resume, made anew: nothing in it may be shared between two runs."""
    task = Regression(21, dropout=0.4)
    plain: dict[str, Any] = {"task": task, "max_epochs": 3, "log_interval": 4, "seed": 3}
    schedule: Callable[[Optimizer], LRScheduler] = functools.partial(cosine, total_steps=18, warmup=2)
    return (
        plain
        | {
            "adam": {"scheduler": schedule, "clip_grad_norm": 0.7, "grad_accumulation": 2},
            "momentum, guarded": {"optimizer": FUSED["momentum"], "guards": (Bad(2, 9),)},
            "noise": {"optimizer": functools.partial(SGLD, lr=0.01, temperature=0.1)},
            "fp16": {"precision": "fp16", "scheduler": schedule},
            "loader": {"data": DataLoader(task.train_data(), batch_size=2, shuffle=True), "grad_accumulation": 2},
            "workers": {"num_workers": 1},
            "unsized": {"data": Unsized(21), "eval_interval": 2},
        }[case]
    )


@pytest.mark.parametrize("case", ["adam", "momentum, guarded", "noise", "fp16", "loader", "workers", "unsized"])
@pytest.mark.parametrize("at", [1, 6, 9, 15], ids="after step {}".format)
def test_a_resumed_run_ends_bit_identical_with_the_same_records(case: str, at: int) -> None:
    """After steps 6, 12 an epoch ends; the others are in the middle of one, and of a log interval."""
    saved: list[bytes] = []

    def save(runner: Runner, last: bool) -> None:
        if runner.progress.step == at:
            saved.append(snapshot(whole))

    diagnostics = {"diagnostics": {"norms": WeightNorm()}}
    whole = Run(**options(case), parts={"plot": save, **diagnostics})
    torch.manual_seed(11)
    whole.fit()
    torch.manual_seed(12)
    resumed = Run(**options(case), parts=copy.deepcopy(diagnostics))
    restore(resumed, saved[0])
    resumed.fit()
    assert same(resumed.weights(), whole.weights())
    assert same(resumed.optimizer.state_dict(), whole.optimizer.state_dict())
    assert entries(resumed) == entries(whole, after=at)
    assert entries(whole, after=at)


def test_a_runner_that_has_trained_can_go_back_to_a_state_of_its_own() -> None:
    """Steps that were not logged when the state was taken are those of then, not those since."""
    saved: list[bytes] = []

    def save(runner: Runner, last: bool) -> None:
        if runner.progress.step == 6 and not saved:
            saved.append(snapshot(run))

    run = Run(max_epochs=3, log_interval=4, parts={"plot": save})
    run.fit()
    first = entries(run, after=6)
    run.records.clear()
    restore(run, saved[0])
    run.fit()
    assert entries(run) == first


def test_a_state_that_was_never_continued_can_be_saved_again() -> None:
    """A run that is preempted between its restart and its first step loses nothing."""
    saved: list[dict[str, Any]] = []
    run = Run(max_epochs=3, log_interval=1000)
    run.runner.plot = lambda runner, last: saved.append(runner.state_dict())
    run.fit()
    again = Run(max_epochs=3, log_interval=1000)
    again.runner.load_state_dict(saved[6])
    assert same(
        {**again.runner.state_dict(), "elapsed": 0},
        {**saved[6], "elapsed": 0},
    )


def test_resuming_an_epoch_that_is_shorter_now_goes_on_with_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """An epoch with fewer batches than were done before must not be waited for forever."""
    long = Run(data=Unsized(40), max_epochs=None, max_steps=8).fit()
    short = Run(data=Unsized(12), max_epochs=None, max_steps=12, eval_interval=100)
    short.runner.load_state_dict(long.runner.state_dict())
    with caplog.at_level(logging.WARNING):
        short.fit()
    assert [record.step for record in short.records] == [9, 10, 11, 12]
    assert [record.epoch for record in short.records] == [2, 2, 2, 3]
    assert "epoch 1 has no more than the 8 batches already done" in caplog.text
