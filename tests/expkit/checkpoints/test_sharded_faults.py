"""Whatever happens to a disk or to a rank while shards are saved: the older checkpoint stays, and no half one is found."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from expkit.checkpoints import CheckpointManager, checkpoint_error, read_checkpoint
from tests.expkit.checkpoints.ranks import make, run_ranks, train
from tests.faults.injector import KILL, LOSE, SHORT, FaultInjector


def holds(path: Path, weight: float) -> bool:
    """Whether what is in a checkpoint is of one moment."""
    state = read_checkpoint(path)["model_state_dict"]
    return all(bool((state[name] == weight).all()) for name in ("0.weight", "0.bias", "2.weight", "2.bias"))


def fill(model: torch.nn.Module, weight: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(weight)


@pytest.mark.parametrize("async_save", [False, True])
@pytest.mark.parametrize("full", [0, 1])
def test_a_full_disk_on_one_rank_costs_this_checkpoint_and_nothing_else(tmp_path, async_save, full):
    root = tmp_path / "run"

    def work(rank: int) -> dict:
        said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())
        logging.getLogger("expkit").addHandler(handler)
        model, optimizer = make()
        train(model, optimizer, 0)
        manager = CheckpointManager(root, keep_last_n=1, async_save=async_save)

        def save(step: int) -> int | None:
            path = manager.save_checkpoint(step, model, optimizer, [], {})
            assert async_save or (path is None) == (step in (2, 3))
            return manager.wait()

        saved = [save(1)]
        with FaultInjector(root, 0 if rank == full else None, errno.ENOSPC, lasting=True):
            saved += [save(2), save(3)]
        failing = manager.trouble()
        saved += [save(4)]
        return {"saved": saved, "said": said, "failing": failing["failing"], "error": failing["last_error"]}

    first, second = run_ranks(2, work, tmp_path)
    assert first["saved"] == second["saved"] == [1, 1, 1, 4]
    assert first["failing"] is second["failing"] is True
    assert "No space left on device" in first["error"]
    assert "No space left on device" in second["error"]
    failed, again = first["said"]
    assert failed.startswith("checkpoint of step 2 not saved")
    assert "bytes needed" in failed
    assert ("(rank 1)" in failed) == (full == 1)
    assert "checkpoint of step 4 saved" in again
    assert second["said"] == []
    assert CheckpointManager(root).load_latest_checkpoint()["step"] == 4
    assert {path.name for path in (root / "checkpoints").iterdir()} == {"checkpoint_step_4", "checkpoint_latest.pt"}


@pytest.mark.parametrize("rank_hit", [0, 1])
def test_a_fault_at_any_file_operation_leaves_whole_checkpoints(tmp_path, rank_hit):
    """The step that is there already is saved again, which is the most that can go wrong."""

    def work(rank: int) -> dict:
        model, optimizer = make()
        train(model, optimizer, 0)

        def scenario(root: Path, at: int | None, fault: int | str) -> tuple[int, bool]:
            fill(model, 1.0)
            assert CheckpointManager(root).save_checkpoint(5, model, optimizer, [], {})
            fill(model, 2.0)
            with FaultInjector(root, at if rank == rank_hit else None, fault) as injector:
                path = CheckpointManager(root).save_checkpoint(5, model, optimizer, [], {})
            return len(injector.seen), path is not None

        count, _ = scenario(tmp_path / "dry", None, errno.EIO)
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(2)]
        torch.distributed.all_gather(counts, torch.tensor([count]))
        done = {}
        for fault in (errno.ENOSPC, SHORT, LOSE):
            for at in range(int(counts[rank_hit])):
                name = f"{fault}_{at}"
                done[name] = scenario(tmp_path / name, at, fault)[1]
        return done

    first, second = run_ranks(2, work, tmp_path)
    assert first == second
    assert len(first) > 10
    assert {*first.values()} == {True, False}
    for name, saved in first.items():
        manager = CheckpointManager(tmp_path / name)
        path = manager.find()
        assert holds(path, 2.0) or (not saved and holds(path, 1.0)), name
        left = {each.name for each in path.parent.iterdir()}
        assert left <= {"checkpoint_step_5", "checkpoint_step_5.old", "checkpoint_latest.pt"}, name


@pytest.fixture
def killed(tmp_path: Path) -> Callable[[int, int], Path]:
    """Saves step 5 and then 5 again in two ranks, of which one is killed at one of its file operations."""
    numbers = itertools.count()

    def kill(rank_hit: int, at: int) -> Path:
        root = tmp_path / f"run_{next(numbers)}"

        def work(rank: int) -> None:
            model, optimizer = make()
            fill(model, 1.0)
            manager = CheckpointManager(root, async_save=at % 2 == 0)
            manager.save_checkpoint(5, model, optimizer, [], {})
            manager.wait()
            fill(model, 2.0)
            with FaultInjector(root, at if rank == rank_hit else None, KILL):
                manager.save_checkpoint(5, model, optimizer, [], {})
                manager.wait()
                os._exit(3 if manager.failed_step == 5 else 4)

        codes = (-signal.SIGKILL, 3) if rank_hit == 0 else (3, -signal.SIGKILL)
        run_ranks(2, work, tmp_path, codes)
        return root

    return kill


OPERATIONS = 24


def test_print(tmp_path):
    def work(rank: int) -> dict:
        model, optimizer = make()
        manager = CheckpointManager(tmp_path)
        manager.save_checkpoint(5, model, optimizer, [], {})
        with FaultInjector(tmp_path) as injector:
            manager.save_checkpoint(5, model, optimizer, [], {})
        return {"o": injector.operations}
    for x in run_ranks(2, work, tmp_path): print(*x["o"], sep="\n")
    assert 0
