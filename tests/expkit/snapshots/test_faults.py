"""Whatever a disk does or a kill leaves, a snapshot is there whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from expkit.experiment import RunDir
from expkit.snapshots import list_snapshots, verify
from tests.expkit.snapshots.making import leftovers, make_run, take
from tests.faults.injector import KILL, FaultInjector, every_fault_point, operations_of, run_in_child


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with checkpoints of steps 1 to 3."""
    return make_run(tmp_path / "mine", 1, 2, 3)


def whole_or_nothing(run: RunDir) -> None:
    assert [verify(each) for each in list_snapshots(run)] in ([], [None])
    assert [path.name for path in run.checkpoints.glob("*.pt")]


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[[], Path]:
    """Makes run directories with one checkpoint."""
    template = make_run(tmp_path / "template", 3).root
    numbers = itertools.count()

    def make() -> Path:
        folder = tmp_path / f"run{next(numbers)}"
        shutil.copytree(template, folder, symlinks=True)
        return folder

    return make


@pytest.mark.parametrize("fault", [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.slow)])
def test_a_disk_that_refuses_leaves_nothing_half_made(
    new_folder: Callable[[], Path], caplog: pytest.LogCaptureFixture, fault: int
) -> None:
    operations = operations_of(lambda folder: take(RunDir(folder)), new_folder())
    assert len(operations) > 15
    for at, operation in enumerate(operations):
        run = RunDir(new_folder())
        caplog.clear()
        with FaultInjector(run.root, at, fault, lasting=True):
            assert take(run) is None, operation
        assert len(caplog.records) == 1, operation
        assert "training goes on" in caplog.text
        whole_or_nothing(run)
        assert not run.snapshots.exists() or leftovers(run) == [], operation
        whole = len(list_snapshots(run))
        assert whole == (at >= len(operations) - 2)  # the fsync of the folder, after the rename
        assert (take(run) is None) == bool(whole)
        assert len(list_snapshots(run)) == 1


@pytest.mark.slow  # the one below is always on
def test_killed_anywhere_it_is_there_whole_or_not_at_all(new_folder: Callable[[], Path]) -> None:
    for operation, folder in every_fault_point(lambda folder: take(RunDir(folder)), new_folder):
        survives(RunDir(folder), operation)


def test_killed_at_the_rename_it_is_not_there(new_folder: Callable[[], Path]) -> None:
    run = RunDir(new_folder())
    operations = operations_of(lambda folder: take(RunDir(folder)), new_folder())
    at = max(number for number, operation in enumerate(operations) if operation.startswith("replace anomaly_"))

    def work() -> None:
        with FaultInjector(run.root, at, KILL):
            take(run)

    assert run_in_child(work) == -signal.SIGKILL
    assert list_snapshots(run) == []
    assert len(leftovers(run)) == 1
    survives(run, operations[at])


def survives(run: RunDir, operation: str) -> None:
    """Check what a kill at `operation` has left, and that the next snapshot is as if it had not been."""
    whole_or_nothing(run)
    for path in run.snapshots.glob(".*"):
        os.utime(path, (1, 1))
    assert take(run, step=18000) is not None, operation
    assert leftovers(run) == [], operation
    assert {verify(each) for each in list_snapshots(run)} == {None}


def test_what_another_host_is_making_is_left_alone(run: RunDir) -> None:
    run.snapshots.mkdir()
    (run.snapshots / ".anomaly_20251112_143022_loss_spike.123.0.tmp").mkdir()
    take(run)
    assert len(leftovers(run)) == 1
