"""Whatever happens to a process or a disk while checkpoints are saved, a good one can be loaded afterwards."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import logging
import os
import random
import shutil
import signal
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from expkit.checkpoints import CheckpointManager
from expkit.checkpoints.storage import write_checkpoint
from tests.faults.injector import (
    LOSE,
    SHORT,
    FaultInjector,
    every_fault_point,
    operations_of,
    run_in_child,
)


def state_of(step: int, size: int = 8) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model whose weights tell which step they are from."""
    model = nn.Linear(size, size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + step)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def save(folder: Path, step: int, keep_last_n: int = 3, is_best: bool = False) -> Path | None:
    manager = CheckpointManager(folder, keep_last_n=keep_last_n)
    return manager.save_checkpoint(step, *state_of(step), [float(step)], {"lr": 0.1}, is_best=is_best)


def assert_holds(checkpoint: dict | None, step: int) -> None:
    assert checkpoint is not None
    assert checkpoint["step"] == step
    assert checkpoint["loss_history"] == [float(step)]
    for name, value in state_of(step)[0].state_dict().items():
        assert torch.equal(checkpoint["model_state_dict"][name], value)


@pytest.fixture
def folder_with_one(tmp_path: Path) -> Callable[[], Path]:
    """Makes run directories that hold the checkpoint of step 1, which is the best."""
    template = tmp_path / "template"
    save(template, 1, is_best=True)
    numbers = itertools.count()

    def new_folder() -> Path:
        folder = tmp_path / f"run_{next(numbers)}"
        shutil.copytree(template, folder, symlinks=True)
        return folder

    return new_folder


@pytest.mark.parametrize("is_best", [False, True])
def test_a_kill_at_any_file_operation_leaves_the_old_or_the_new_checkpoint(folder_with_one, is_best):
    def scenario(folder: Path) -> None:
        save(folder, 2, keep_last_n=1, is_best=is_best)

    found = set()
    for operation, folder in every_fault_point(scenario, folder_with_one):
        manager = CheckpointManager(folder)
        checkpoint = manager.load_latest_checkpoint()
        assert checkpoint is not None, operation
        assert_holds(checkpoint, checkpoint["step"])
        found.add(checkpoint["step"])
        best = 2 if is_best and checkpoint["step"] == 2 else 1
        assert manager.best_path() == folder / f"checkpoints/checkpoint_step_{best}.pt", operation

        assert save(folder, 3) is not None, operation
        assert_holds(CheckpointManager(folder).load_latest_checkpoint(), 3)
        assert not [*folder.rglob("*.tmp"), *folder.rglob("*.corrupt")], operation
        assert (folder / "checkpoints/checkpoint_best.pt").resolve() == manager.best_path()
    assert found == {1, 2}


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EACCES, SHORT, LOSE])
def test_an_error_at_any_file_operation_is_said_and_training_goes_on(folder_with_one, fault, caplog):
    def scenario(folder: Path) -> None:
        save(folder, 2, keep_last_n=1)

    # The best of step 1 stays anyway: so that there is something to delete, step 0 is there too.
    def new_folder() -> Path:
        folder = folder_with_one()
        save(folder, 0)
        return folder

    for at, operation in enumerate(operations_of(scenario, new_folder())):
        if fault in (SHORT, LOSE) and not operation.startswith("write"):
            continue
        folder = new_folder()
        caplog.clear()
        with FaultInjector(folder, at, fault):
            path = save(folder, 2, keep_last_n=1)
        # A file system that refuses to fsync a folder is one that cannot: no reason to say anything.
        silent = fault == errno.EACCES and operation in ("open checkpoints", "fsync checkpoints")
        assert silent or [r.levelname for r in caplog.records] == ["WARNING"], operation
        if path is None:
            assert "bytes needed" in caplog.text
            assert "bytes free" in caplog.text
        manager = CheckpointManager(folder)
        checkpoint = manager.load_latest_checkpoint()
        # When only the last fsync failed, the new one is there although nobody may count on it.
        assert checkpoint is not None
        assert checkpoint["step"] in ((1, 2) if path is None else (2,)), operation
        assert_holds(checkpoint, checkpoint["step"])
        assert save(folder, 3) is not None
        assert_holds(CheckpointManager(folder).load_latest_checkpoint(), 3)
        assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_goes_on_failing_keeps_the_old_one_and_the_next_save_after_it_works(folder_with_one, fault):
    def scenario(folder: Path) -> None:
        save(folder, 2, keep_last_n=1, is_best=True)

    for at, operation in enumerate(operations_of(scenario, folder_with_one())):
        folder = folder_with_one()
        with FaultInjector(folder, at, fault, lasting=True) as injector:
            scenario(folder)
            save(folder, 3, keep_last_n=1)
            manager = CheckpointManager(folder)
            checkpoint = manager.load_latest_checkpoint()
            assert checkpoint is not None, operation
            assert_holds(checkpoint, checkpoint["step"])
            assert manager.best_path() is not None, operation
            injector.lift()
            assert save(folder, 4, keep_last_n=1) is not None, operation
        assert_holds(CheckpointManager(folder).load_latest_checkpoint(), 4)
        assert (folder / "checkpoints/checkpoint_best.pt").resolve() == manager.best_path(), operation


def test_nothing_is_named_or_deleted_before_it_is_on_the_disk(folder_with_one):
    folder = folder_with_one()
    save(folder, 0)
    operations = operations_of(lambda folder: save(folder, 2, keep_last_n=1, is_best=True), folder)
    without_writes = [operation for operation in operations if not operation.startswith("write")]
    assert without_writes == [
        "create .checkpoint_step_2",
        "fsync .checkpoint_step_2",
        "replace checkpoint_step_2.pt",
        "open checkpoints",
        "fsync checkpoints",
        "symlink .checkpoint_latest",
        "replace checkpoint_latest.pt",
        "symlink .checkpoint_best",
        "replace checkpoint_best.pt",
        "unlink checkpoint_step_0.pt",
        "unlink checkpoint_step_1.pt",
    ]
    last_write = max(at for at, operation in enumerate(operations) if operation.startswith("write"))
    assert operations[last_write + 1] == "fsync .checkpoint_step_2"


def test_a_full_disk_keeps_the_old_checkpoints_and_the_next_save_with_room_works(small_disk, caplog):
    manager = CheckpointManager(small_disk)
    saved = [manager.save_checkpoint(step, *state_of(step, size=600), [float(step)], {}) for step in (1, 2, 3)]
    assert [path is not None for path in saved] == [True, True, False]
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "step 3 not saved" in caplog.text
    assert "No space left" in caplog.text
    assert not list(small_disk.rglob("*.tmp"))

    needed, free = (
        int(word.replace(",", "")) for word in caplog.text.split() if word.replace(",", "").isdigit() and len(word) > 6
    )
    assert 600 * 600 * 4 < needed < 2 * 600 * 600 * 4
    assert 0 < free < needed
    assert manager.load_latest_checkpoint()["step"] == 2

    (small_disk / "checkpoints/checkpoint_step_1.pt").unlink()
    assert manager.save_checkpoint(4, *state_of(4, size=600), [4.0], {}) is not None
    assert CheckpointManager(small_disk).load_latest_checkpoint()["step"] == 4


def test_what_a_full_disk_does_not_take_does_not_stay_in_memory(small_disk):
    kept = []
    for _ in range(3):
        weight = torch.zeros(2000, 1000)
        kept.append(weakref.ref(weight))
        with contextlib.suppress(OSError):
            write_checkpoint(small_disk / "checkpoint_step_1.pt", {"weight": weight})
    assert not list(small_disk.iterdir())
    del weight
    gc.collect()
    assert [each() for each in kept] == [None] * 3


def kill_while_saving(folder: Path, after: float) -> None:
    """Save without a pause in a child process, from the newest checkpoint on, and kill it."""

    def train() -> None:
        latest = CheckpointManager(folder).load_latest_checkpoint()
        for step in itertools.count(latest["step"] + 1 if latest else 1):
            assert save(folder, step, keep_last_n=2) is not None

    pid = os.fork()
    if pid == 0:
        train()
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_kill_minus_9_in_the_middle_of_continuous_saving_always_leaves_one_to_load(tmp_path, kills):
    save(tmp_path, 1)
    rng = random.Random(kills)
    step = 1
    for _ in range(kills):
        kill_while_saving(tmp_path, after=rng.uniform(0.02, 0.1))
        checkpoint = CheckpointManager(tmp_path).load_latest_checkpoint()
        assert checkpoint is not None
        assert_holds(checkpoint, checkpoint["step"])
        assert checkpoint["step"] >= step
        step = checkpoint["step"]
    assert step > 1
    assert not list(tmp_path.rglob("*.corrupt"))
    save(tmp_path, step + 1)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_injector_kills_where_it_is_told_to(tmp_path):
    def work() -> None:
        with FaultInjector(tmp_path, 1, "kill"):
            (tmp_path / "first").open("w").close()
            (tmp_path / "second").open("w").close()

    assert run_in_child(work) == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == ["first"]


def test_a_disk_that_refuses_for_a_time_is_said_once_and_once_more_when_it_takes_them_again(tmp_path, caplog):
    manager = CheckpointManager(tmp_path)
    assert manager.save_checkpoint(1, *state_of(1), [1.0], {}) is not None
    with FaultInjector(tmp_path, 0, errno.ENOSPC, lasting=True):
        assert [manager.save_checkpoint(step, *state_of(step), [], {}) for step in (2, 3, 4)] == [None] * 3
    assert manager.trouble() == {"failures": 3, "last_error": "No space left on device", "failing": True}
    assert manager.save_checkpoint(5, *state_of(5), [5.0], {}) is not None
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("checkpoint of step 2 not saved")
    assert said[1] == f"checkpoint of step 5 saved: {tmp_path / 'checkpoints'} can be written again"
    assert manager.trouble()["failing"] is False


def test_checkpoints_that_are_deleted_meanwhile_are_missed(tmp_path, caplog):
    manager = CheckpointManager(tmp_path)
    assert manager.save_checkpoint(1, *state_of(1), [1.0], {}) is not None
    shutil.rmtree(tmp_path / "checkpoints")
    assert manager.save_checkpoint(2, *state_of(2), [2.0], {}) is not None
    assert f"{tmp_path / 'checkpoints'} is gone, and the checkpoints in it: it is made anew" in caplog.text
