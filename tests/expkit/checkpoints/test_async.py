"""Saving beside training: the file holds the moment of the call, whatever happens to the state afterwards."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
import threading
from collections import OrderedDict

import pytest
import torch
from torch import nn

from expkit.checkpoints import CheckpointManager, KeepPolicy
from expkit.checkpoints import writer as writer_module
from expkit.checkpoints.staging import Staging, state_bytes
from expkit.errors import UserError
from tests.faults.injector import FaultInjector
from tests.faults.test_checkpoint_faults import assert_holds, state_of


@pytest.fixture
def slow(monkeypatch):
    """Writing waits until the test says `slow.set()`."""
    go, real = threading.Event(), writer_module.write_checkpoint

    def write(*arguments):
        assert go.wait(30)
        real(*arguments)

    monkeypatch.setattr(writer_module, "write_checkpoint", write)
    yield go
    go.set()


@pytest.mark.parametrize("async_save", [True, "auto"])
def test_what_is_saved_is_the_moment_of_the_call(tmp_path, slow, async_save):
    manager = CheckpointManager(tmp_path, async_save=async_save)
    (model, optimizer), history = state_of(1), [1.0]
    path = manager.save_checkpoint(1, model, optimizer, history, {"lr": 0.1})
    assert not path.exists()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    history.append(2.0)
    slow.set()
    assert manager.wait() == 1
    assert_holds(manager.load_latest_checkpoint(), 1)


def test_one_save_is_in_flight_at_a_time(tmp_path, slow):
    manager = CheckpointManager(tmp_path, async_save=True)
    manager.save_checkpoint(1, *state_of(1), [1.0], {})
    second = threading.Thread(target=lambda: manager.save_checkpoint(2, *state_of(2), [2.0], {}))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert manager.saved_step is None
    slow.set()
    second.join(30)
    assert manager.wait() == 2
    for step in (1, 2):
        assert_holds(manager.load_checkpoint(step), step)


@pytest.mark.parametrize("call", ["load_latest_checkpoint", "restore", "list_checkpoints"])
def test_who_reads_waits_for_what_is_being_written(tmp_path, slow, call):
    manager = CheckpointManager(tmp_path, async_save=True)
    manager.save_checkpoint(1, *state_of(1), [1.0], {})
    threading.Timer(0.2, slow.set).start()
    assert getattr(manager, call)(*(state_of(2) if call == "restore" else ()))
    assert manager.saved_step == 1


def test_a_failed_save_is_said_and_leaves_the_one_before(tmp_path, caplog):
    manager = CheckpointManager(tmp_path, keep_last_n=1, async_save=True)
    manager.save_checkpoint(1, *state_of(1), [1.0], {})
    manager.wait()
    with FaultInjector(tmp_path, 0, errno.ENOSPC):
        manager.save_checkpoint(2, *state_of(2), [2.0], {})
        assert manager.wait() == 1
    assert "checkpoint of step 2 not saved" in caplog.text
    assert "bytes needed" in caplog.text
    manager.save_checkpoint(3, *state_of(3), [3.0], {})
    assert manager.wait() == 3
    assert_holds(CheckpointManager(tmp_path).load_latest_checkpoint(), 3)


def test_anything_that_fails_in_the_thread_is_said(tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(writer_module, "write_checkpoint", broken)
    manager = CheckpointManager(tmp_path, async_save=True)
    manager.save_checkpoint(1, *state_of(1), [1.0], {})
    assert manager.wait() is None
    assert "checkpoint of step 1 not saved (MemoryError: no room)" in caplog.text


def test_without_memory_for_a_copy_training_waits_and_is_told_so_once(tmp_path, monkeypatch, caplog, slow):
    monkeypatch.setattr(writer_module, "fits_in_memory", lambda size: False)
    slow.set()
    manager = CheckpointManager(tmp_path, async_save="auto")
    for step in (1, 2):
        assert manager.save_checkpoint(step, *state_of(step), [float(step)], {}).exists()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "training waits for each checkpoint: there is no memory for a copy of 288 bytes" in record.message


@pytest.mark.parametrize("then", ["del manager", "manager.abandon()"])
def test_the_end_of_the_process_waits_for_the_last_one_unless_it_is_abandoned(tmp_path, then):
    code = f"""
import time, torch
from expkit import CheckpointManager
from expkit.checkpoints import writer
real = writer.write_checkpoint
writer.write_checkpoint = lambda *arguments: (time.sleep(0.5), real(*arguments))
model = torch.nn.Linear(200, 200)
manager = CheckpointManager({str(tmp_path)!r}, async_save=True)
manager.save_checkpoint(1, model, torch.optim.SGD(model.parameters(), lr=0.1), [], {{}})
{then}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    saved = CheckpointManager(tmp_path).load_latest_checkpoint()
    assert saved is None if "abandon" in then else saved["step"] == 1


@pytest.mark.parametrize("delay", [0.2, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.05, 0.4))])
def test_who_leaves_at_once_in_the_midst_of_writing_leaves_cleanly(tmp_path, delay):
    """The interpreter ends threads wherever they are: within torch's own code that would abort the process."""
    code = f"""
import sys, time, torch
from expkit import CheckpointManager
model = torch.nn.Linear(8_000, 8_000)
manager = CheckpointManager({str(tmp_path)!r}, async_save=True)
manager.save_checkpoint(1, model, torch.optim.SGD(model.parameters(), lr=0.1), [], {{}})
time.sleep({delay})
manager.abandon()
sys.exit(130)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, "")
    saved = CheckpointManager(tmp_path).load_latest_checkpoint()
    assert saved is None or saved["step"] == 1


def test_a_copy_for_which_memory_cannot_be_had_after_all_is_not_made(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Staging, "copy", refuse)
    manager = CheckpointManager(tmp_path, async_save=True)
    for step in (1, 2):
        assert manager.save_checkpoint(step, *state_of(step), [float(step)], {}).exists()
    assert caplog.text.count("there is no memory for a copy") == 1


def test_buffers_of_sizes_that_no_longer_come_are_let_go():
    staging = Staging()
    for size in range(1, 50):
        state = {"weight": torch.ones(100), "batch": torch.ones(size)}
        staging.copy(state)
        assert staging.size == state_bytes(state)


@pytest.mark.parametrize("async_save", [False, True])
def test_a_policy_that_fails_costs_no_checkpoint(tmp_path, caplog, async_save):
    class Broken(KeepPolicy):
        def keep(self, saved):
            raise RuntimeError("no idea")

    manager = CheckpointManager(tmp_path, keep_last_n=1, keep=Broken(), async_save=async_save)
    for step in (1, 2):
        manager.save_checkpoint(step, *state_of(step), [float(step)], {})
    assert (manager.wait(), manager.failed_step) == (2, None)
    assert "cannot be tidied up: RuntimeError: no idea" in caplog.text


@pytest.mark.parametrize("metrics", [{"val_loss": None}, {"val_loss": "low"}, [0.3], {"val_loss": torch.ones(1)}])
def test_metrics_are_numbers(tmp_path, metrics):
    with pytest.raises(UserError, match="it must be names and numbers"):
        CheckpointManager(tmp_path).save_checkpoint(1, *state_of(1), [], {}, metrics=metrics)
    assert not (tmp_path / "checkpoints").exists()


def test_the_copy_is_equal_shares_memory_where_the_state_does_and_is_made_into_the_same_buffers():
    weight = torch.randn(6, 4)
    state = {
        "tied": [weight, weight.T, weight[2:4, 1]],
        "ordered": OrderedDict(a=torch.randn(3).bfloat16(), b=nn.Parameter(torch.ones(2))),
        "odd": (
            torch.empty(0, 5),
            torch.tensor(1 + 2j).conj(),
            torch.eye(3).to_sparse(),
            {1, 2},
            b"x",
            bytearray(b"y"),
        ),
        "plain": [1.0] * 1000,
    }
    state["ordered"]._metadata = {"": {"version": 1}}
    staging = Staging()
    copied, ready = staging.copy(state)
    ready()
    first, transposed, part = copied["tied"]
    assert torch.equal(first, weight)
    assert (
        transposed.untyped_storage().data_ptr()
        == first.untyped_storage().data_ptr()
        == part.untyped_storage().data_ptr()
    )
    assert first.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
    assert torch.equal(transposed, weight.T)
    assert torch.equal(part, weight[2:4, 1])
    assert all(torch.equal(copied["ordered"][name], value) for name, value in state["ordered"].items())
    assert type(copied["ordered"]["b"]) is nn.Parameter
    assert copied["ordered"]._metadata == {"": {"version": 1}}
    assert torch.equal(copied["odd"][1], state["odd"][1])
    assert torch.equal(copied["odd"][2].to_dense(), torch.eye(3))
    assert copied["plain"] == state["plain"]
    assert copied["plain"] is not state["plain"]

    before, size = first.untyped_storage().data_ptr(), staging.size
    weight += 1
    assert not torch.equal(first, weight)
    again, _ = staging.copy(state)
    assert again["tied"][0].untyped_storage().data_ptr() == before
    assert torch.equal(again["tied"][0], weight)
    assert staging.size == size == state_bytes(state) - 8  # the complex number is copied by other means
