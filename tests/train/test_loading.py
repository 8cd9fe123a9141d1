"""A loading process that is killed, or an error while others load: the program ends, with its own error and at once."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.conftest import train_command, train_environment
from train.data import Batches
from train.loading import kill_loaders

#: An iterator that lives when the interpreter ends, as in a traceback: torch leaves its processes to multiprocessing.
SCRIPT = """
import os, signal, sys, multiprocessing
from train.data import Batches

updates = Batches(range(1000), batch_size=2, num_workers=3).epoch(0)
next(updates)
if sys.argv[1] == "killed":
    os.kill(multiprocessing.active_children()[1].pid, signal.SIGKILL)
    for _ in updates:
        pass
raise ValueError("its own error")
"""

SLOW_TASK = """
import time
from train.tasks.denoise import DenoiseTask


class Slow:
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def batch(self, indices):
        time.sleep(0.2)
        return self.data.batch(indices)

    def __getitem__(self, index):
        raise NotImplementedError


class SlowTask(DenoiseTask):
    def train_data(self):
        return Slow(super().train_data())
"""


def end(process: subprocess.Popen[str]) -> str:
    """Wait for the end; return what was said. Nothing that the process has started is left."""
    children = psutil.Process(process.pid).children(recursive=True)
    try:
        return process.communicate(timeout=60)[1]
    finally:
        process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


@pytest.mark.parametrize("how", ["killed", pytest.param("raised", marks=pytest.mark.slow)])
def test_a_program_that_fails_while_processes_load_ends(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", SCRIPT, how]
    said = end(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=train_environment(tmp_path)))
    assert ("DataLoader worker (pid" if how == "killed" else "ValueError: its own error") in said


@pytest.mark.slow
def test_a_run_one_of_whose_loading_processes_is_killed_fails_and_says_so(tmp_path: Path, outputs: Path) -> None:
    (tmp_path / "slow_task.py").write_text(SLOW_TASK)
    words = ("run.id=mine", "task._target_=slow_task.SlowTask", "trainer.num_workers=3", "tracker=[]", "plots=[]")
    environment = train_environment(tmp_path)
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    command = train_command(outputs, *words, "trainer.max_epochs=1000")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    run = outputs / "mine"
    while not (run / "checkpoints").is_dir() or not list((run / "checkpoints").glob("checkpoint_step_*.pt")):
        assert process.poll() is None
        time.sleep(0.05)
    while len(loading := psutil.Process(process.pid).children()) < 3:  # between two epochs there are none
        assert process.poll() is None
    loading[1].send_signal(signal.SIGKILL)
    said = end(process)
    assert process.returncode == 1
    assert f"DataLoader worker (pid(s) {loading[1].pid})" in said or f"(pid {loading[1].pid})" in said
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert not [each for each in loading if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


class NoRoom(Dataset[torch.Tensor]):
    """Samples whose batches a loading process cannot hand over, as where its temporary folder is full."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        multiprocessing.current_process()._config["tempdir"] = "/no/room"  # type: ignore[attr-defined]
        return torch.tensor([index])


@pytest.mark.timeout(60)
def test_a_batch_that_cannot_be_handed_over_is_not_waited_for_for_ever(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        next(Batches(NoRoom(), batch_size=4, num_workers=1).epoch(0))
    assert "cannot hand over a batch: FileNotFoundError" in capfd.readouterr().err


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> int:
        return index


def numbers(updates: Any) -> list[int]:
    return torch.cat([update.pieces[0][0] for update in updates]).tolist()


def test_only_loading_processes_are_killed_and_a_loader_of_ones_own_works_again() -> None:
    """In a notebook, say, where the process goes on."""
    other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    other.start()
    loader = DataLoader(Numbers(), batch_size=4, num_workers=2, persistent_workers=True)
    try:
        updates = Batches(loader, batch_size=4).epoch(0)
        next(updates)
        handler = signal.getsignal(signal.SIGCHLD)  # torch's
        loading = set(multiprocessing.active_children()) - {other}
        assert len(loading) == 2
        kill_loaders()
        assert [each.exitcode for each in loading] == [-signal.SIGKILL] * 2
        assert other.is_alive()
        del updates
        assert numbers(Batches(loader, batch_size=4).epoch(1)) == list(range(40))
        assert signal.getsignal(signal.SIGCHLD) == handler
    finally:
        other.kill()
        kill_loaders()
