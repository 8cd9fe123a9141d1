"""Runs of several processes are the run of one: the same numbers, whatever the strategy, stopped or not."""

from __future__ import annotations

import functools
import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.fsdp._fully_shard._fsdp_param_group as fsdp
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from tests.train.helpers import same
from tests.train.ranks import Ranks, assert_same_run, at, journal_of, last_checkpoint, status_of, val_loss_of
from train.strategies.ddp import Replicated

STEPS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return Ranks(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone(folder: Ranks) -> Callable[..., Path]:
    """Call with overrides: the run of one process, which is trained once."""

    @functools.cache
    def run(*typed: str) -> Path:
        return folder(1, f"alone{len([*folder.outputs.glob('alone*')])}", *typed)

    return run


def counting(folder: Path) -> Callable[[int], None]:
    """Return a setup that leaves a byte in `folder/RANK` for each exchange of gradients; of fsdp, of a block's."""

    def set_up(rank: int) -> None:
        trained, reduce = Replicated.trained, fsdp.foreach_reduce

        def note() -> None:
            with (folder / str(rank)).open("a") as file:
                file.write(".")

        def hook(_, bucket):  # type: ignore[no-untyped-def] # DDP looks at annotations
            if bucket.is_last():
                note()
            return allreduce_hook(None, bucket)

        def hooked(self: Replicated, model: nn.Module) -> nn.Module:
            is_new, wrapped = self._wrapped is None, trained(self, model)
            if is_new:
                assert isinstance(wrapped, DistributedDataParallel)
                wrapped.register_comm_hook(None, hook)
            return wrapped

        def reduced(*arguments: Any, **options: Any) -> Any:
            note()
            return reduce(*arguments, **options)

        Replicated.trained = hooked  # type: ignore[method-assign]
        fsdp.foreach_reduce = reduced

    return set_up


@pytest.mark.parametrize(("strategy", "count", "n"), [("ddp", 2, 67), ("ddp", 4, 65), ("fsdp", 2, 67), ("fsdp", 4, 65)])
def test_several_processes_compute_what_one_does_and_exchange_gradients_once_per_update(
    strategy: str, count: int, n: int, folder: Ranks, alone: Callable[..., Path], tmp_path: Path
) -> None:
    typed = (f"task.n={n}", f"trainer.max_steps={STEPS}", "trainer.clip_grad_norm=0.5", "scheduler=cosine")
    run = folder(
        *(count, f"{strategy}{count}", *typed, f"trainer.strategy={strategy}", "trainer.grad_accumulation=2"),
        setup=counting(tmp_path),
    )
    one = alone(*typed)
    assert_same_run(one, run)
    assert "gradient_norm" in journal_of(run)[0] and "val_loss" in journal_of(run)[-1]
    exchanges = [len((tmp_path / str(rank)).read_text()) for rank in range(count)]
    blocks = 3 if strategy == "fsdp" else 1
    assert exchanges == [STEPS * blocks] * count


def stopped_at(run: Path, step: int) -> bool:
    """Whether a signal has stopped a run, and it has saved."""
    status = status_of(run)
    return (status["state"], status["step"], last_checkpoint(run)["step"]) == ("preempted", step, step)


def test_what_is_random_on_each_of_four_ranks_goes_on_after_stops_and_kills_bit_for_bit(folder: Ranks) -> None:
    typed = ("task.dropout=0.3", f"trainer.max_steps={STEPS}", "optimizer=adamw", "checkpoint.save_interval=7")
    whole = folder(4, "whole", *typed)
    run = folder(4, "stopped", *typed, setup=at(3, signal.SIGTERM, of=3), code=128 + signal.SIGTERM)
    assert stopped_at(run, 3), "in the midst of an interval of the log, and of an epoch"
    state = last_checkpoint(run)
    draws = [state["rng_state"], *(each["rng_state"] for each in state["ranks"])]
    assert not any(same(one["torch"], other["torch"]) for one, other in itertools.combinations(draws, 2))
    folder(4, "stopped", setup=at(9, signal.SIGKILL), code=None)
    assert last_checkpoint(run)["step"] in (3, 7)
    folder(4, "stopped")
    assert repr(journal_of(whole)) == repr(journal_of(run))
    one, other = last_checkpoint(whole), last_checkpoint(run)
    assert one.keys() == other.keys()
    for key in one:
        assert same(one[key], other[key]), key
    assert journal_of(run)[-1]["val_loss"] == pytest.approx(val_loss_of(run, dropout=0.3), rel=1e-5), "with its buffers"


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([("fsdp", 2), ("fsdp", 1), ("fsdp", 4)], id="fsdp"),
        pytest.param([("ddp", 2), ("fsdp", 2), ("auto", 1), ("ddp", 3)], id="ddp to fsdp to one to ddp"),
    ],
)
def test_a_run_goes_on_with_other_processes_and_strategies(
    parts: list[tuple[str, int]], folder: Ranks, alone: Callable[..., Path]
) -> None:
    typed = (f"trainer.max_steps={STEPS}", "trainer.batch_size=12", "trainer.clip_grad_norm=0.5", "scheduler=cosine")
    name = "-".join(strategy for strategy, _ in parts)
    for (strategy, count), step in zip(parts, (3, 7, 11, 0), strict=False):
        last = (strategy, count) == parts[-1]
        run = folder(
            *(count, name, *(typed if step == 3 else ()), f"trainer.strategy={strategy}"),
            setup=(lambda rank: None) if last else at(step, signal.SIGTERM, of=count - 1),
            code=0 if last else 128 + signal.SIGTERM,
        )
        assert last or stopped_at(run, step), "in the midst of an interval of the log"
    assert_same_run(alone(*typed), run)
