"""Whatever happens to a disk or a rank while shards are saved: the older one stays, and no half one is found."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from expkit.checkpoints import CheckpointManager, checkpoint_error, read_checkpoint
from expkit.dist import Dist
from tests.expkit.checkpoints.ranks import run_ranks
from tests.faults.injector import KILL, LOSE, SHORT, FaultInjector


def holds(path: Path, weight: float) -> bool:
    """Whether what is in a checkpoint is of one moment."""
    state = read_checkpoint(path)["model_state_dict"]
    return all(bool((value == weight).all()) for value in state.values())


def make_small(sharded: bool = True) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return what takes few file operations to save."""
    model = nn.Linear(3, 3)
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def fill(model: nn.Module, weight: float) -> None:
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
        model, optimizer = make_small()
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


def points(operations: list[str]) -> list[int]:
    """Return which operations to let fail: all, but of the hundreds of writes to a file the first and the last."""
    around = zip([None, *operations], operations, [*operations[1:], None], strict=False)
    return [number for number, (before, it, after) in enumerate(around) if it not in (before, after) or before != after]


@pytest.mark.parametrize("rank_hit", [0, 1])
def test_a_fault_at_any_file_operation_leaves_whole_checkpoints(tmp_path, monkeypatch, rank_hit):
    """The step that is there already is saved again, which is the most that can go wrong."""

    def work(rank: int) -> dict:
        model, optimizer = make_small()
        ranks = Dist.current()
        monkeypatch.setattr(Dist, "current", lambda: ranks)  # each makes a group

        def scenario(root: Path, at: int | None, fault: int | str) -> tuple[list[str], bool]:
            fill(model, 1.0)
            assert CheckpointManager(root).save_checkpoint(5, model, optimizer, [], {})
            fill(model, 2.0)
            with FaultInjector(root, at if rank == rank_hit else None, fault) as injector:
                path = CheckpointManager(root).save_checkpoint(5, model, optimizer, [], {})
            return injector.operations, path is not None

        operations = ranks.gather_all(scenario(tmp_path / "dry", None, errno.EIO)[0])[rank_hit]
        where = points(operations)
        writes = [at for at in where if operations[at].startswith("write")]
        cases = [*itertools.product((errno.ENOSPC,), where), *itertools.product((SHORT, LOSE), writes)]
        return {f"{fault}_{at}": scenario(tmp_path / f"{fault}_{at}", at, fault)[1] for fault, at in cases}

    first, second = run_ranks(2, work, tmp_path)
    assert first == second
    assert False in first.values()
    for name, saved in first.items():
        manager = CheckpointManager(tmp_path / name)
        path = manager.find()
        assert holds(path, 2.0) or (not saved and holds(path, 1.0)), name
        left = {each.name for each in path.parent.iterdir()}
        assert left <= {"checkpoint_step_5", "checkpoint_step_5.old", "checkpoint_latest.pt"}, name


KILLED_AT = (
    "mkdir .checkpoint_step_5",
    "replace manifest.json",
    "rename checkpoint_step_5.old",
    "replace checkpoint_step_5",
)


@pytest.mark.parametrize("where", [*KILLED_AT, pytest.param("anywhere", marks=pytest.mark.slow)])
def test_a_kill_of_the_first_rank_leaves_the_old_or_the_new_checkpoint(tmp_path, where):
    """While the step that is there already is saved again."""

    def begin(root: Path, at: int | None, async_save: bool = False) -> list[str]:
        model, optimizer = make_small()
        fill(model, 1.0)
        CheckpointManager(root).save_checkpoint(5, model, optimizer, [], {})
        fill(model, 2.0)
        manager = CheckpointManager(root, async_save=async_save)
        with FaultInjector(root, at, KILL) as injector:
            manager.save_checkpoint(5, model, optimizer, [], {})
            manager.wait()
        return injector.operations

    operations, _ = run_ranks(2, lambda rank: begin(tmp_path / "dry", None), tmp_path)
    found = []
    for at in points(operations):
        if where != "anywhere" and not operations[at].startswith(where):
            continue
        root = tmp_path / f"killed_at_{at}"

        def work(rank: int, root: Path = root, at: int = at) -> None:
            with contextlib.suppress(RuntimeError):  # what gloo says of a rank that is gone
                begin(root, at if rank == 0 else None, async_save=at % 2 == 0)

        run_ranks(2, work, tmp_path, (-signal.SIGKILL, 0))
        manager = CheckpointManager(root)
        path = manager.find()
        assert path is not None, operations[at]
        found.append(next(weight for weight in (1.0, 2.0) if holds(path, weight)))
        model, optimizer = make_small(sharded=False)
        manager.save_checkpoint(6, model, optimizer, [], {})
        left = {each.name.removesuffix(".old") for each in (root / "checkpoints").iterdir()}
        assert left == {"checkpoint_step_5", "checkpoint_step_6.pt", "checkpoint_latest.pt"}, operations[at]
    assert found == sorted(found)
    assert found


def test_a_kill_of_another_rank_in_the_middle_of_a_save_leaves_the_older_one(tmp_path):
    root = tmp_path / "run"

    def work(rank: int) -> dict:
        model, optimizer = make_small()
        manager = CheckpointManager(root, async_save=True)
        manager.save_checkpoint(1, model, optimizer, [], {})
        manager.wait()
        with FaultInjector(root, 20 if rank == 1 else None, KILL):
            manager.save_checkpoint(2, model, optimizer, [], {})
            return {"saved": manager.wait(), "failed": manager.failed_step}

    first, _ = run_ranks(2, work, tmp_path, (0, -signal.SIGKILL))
    assert first == {"saved": 1, "failed": 2}
    assert {path.name for path in (root / "checkpoints").iterdir()} == {"checkpoint_step_1", "checkpoint_latest.pt"}
    assert checkpoint_error(root / "checkpoints/checkpoint_step_1") is None
