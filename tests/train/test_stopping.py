"""Signals, in real processes: what is saved, what is said, how soon it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from expkit.checkpoints import CheckpointManager, checkpoint_error
from expkit.journal import read_journal
from tests.train.forked import Forked
from train.tasks.denoise import DenoiseTask

SMALL = ("run.id=mine", "task.model.hidden=8", "trainer.max_epochs=100000", "tracker=[]", "plots=[]")

#: Seconds that "at once" may take on a machine that is busy with other things.
AT_ONCE = 8.0


def wait_for(condition: Callable[[], object], process: Forked) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, process.said
        process.read(0.02)


def state(run: Path) -> str:
    return str(json.loads((run / "status.json").read_text())["state"])


def intact(run: Path) -> list[int]:
    """The steps of the checkpoints; each is whole, and nothing half-written lies beside them."""
    files = [path for path in (run / "checkpoints").iterdir() if not path.is_symlink()]
    assert all(checkpoint_error(path) is None for path in files), files
    return sorted(int(path.stem.rpartition("_")[2]) for path in files)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)],
)
def test_a_signal_saves_at_the_next_step_and_then_calls_the_handler_that_was_there(
    tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "mine"

    def handler(received: int, _: object) -> None:
        newest = CheckpointManager(run).latest_path()
        os.write(2, f"previous handler: {signal.Signals(received).name}, {state(run)}, {newest}\n".encode())

    process = Forked(tmp_path, *SMALL, "checkpoint.save_interval=1000000", setup=lambda: signal.signal(number, handler))
    process.expect("epoch 1/")
    process.send(number)
    assert process.end() == 128 + number, process.said
    status = json.loads((run / "status.json").read_text())
    step = status["step"]
    assert status["signal"] == number.name
    assert intact(run)[-1] == step
    ended = "interrupted" if number == signal.SIGINT else "preempted"
    assert f"{ended} at step {step}; go on with: python -m train resume={run}\n" in process.said
    assert f"previous handler: {number.name}, {ended}, {run}/checkpoints/checkpoint_step_{step}.pt\n" in process.said
    assert "Traceback" not in process.said


def test_a_terminal_that_is_closed_is_a_request_to_save_and_stop(tmp_path: Path) -> None:
    process = Forked(tmp_path, *SMALL, "checkpoint.save_interval=1000000", "trainer.num_workers=1")
    process.expect("epoch 1/")
    assert process.hang_up() == 128 + signal.SIGHUP
    run = tmp_path / "mine"
    assert state(run) == "interrupted"
    assert intact(run)[-1] >= max(entry["step"] for entry in read_journal(run / "logs" / "metrics.jsonl"))


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_the_second_ctrl_c_leaves_at_once_though_data_are_slow(tmp_path: Path, workers: int) -> None:
    def slow_data() -> None:
        fetch = DenoiseTask.train_data

        def train_data(task: DenoiseTask) -> object:
            data = fetch(task)

            class Slow:
                def __len__(self) -> int:
                    return len(data)

                def batch(self, indices: list[int]) -> object:
                    if (tmp_path / "mine" / "checkpoints" / "checkpoint_step_23.pt").exists():  # in the second epoch
                        (tmp_path / "loading").touch()
                        time.sleep(100)
                    return data.batch(indices)

                def __getitem__(self, index: int) -> object:
                    raise NotImplementedError

            return Slow()

        DenoiseTask.train_data = train_data  # type: ignore[assignment,method-assign]

    process = Forked(tmp_path, *SMALL, f"trainer.num_workers={workers}", setup=slow_data)
    wait_for((tmp_path / "loading").exists, process)
    process.type("\x03")  # to all of the group, the loading processes too
    process.expect("^C")
    time.sleep(0.3)
    process.type("\x03")
    began = time.monotonic()
    assert process.end() == 130, process.said
    assert time.monotonic() - began < AT_ONCE
    run = tmp_path / "mine"
    last = process.said.strip().splitlines()[-1].removeprefix("^C")
    assert last == f"interrupted at once: {run} has everything up to step 23; go on with: python -m train resume={run}"
    assert "Traceback" not in process.said
    assert state(run) == "interrupted"
    assert intact(run) == [23]


def slow_saves(after: int) -> Callable[[], None]:
    """Let every write of the saves after the first `after` ones take its time."""

    def setup() -> None:
        save, count = torch.save, iter(range(10**9))

        def slow_save(state: object, file: object, *args: object) -> None:
            slow = next(count) >= after

            class Slow:
                def write(self, data: memoryview) -> int:
                    if slow:
                        time.sleep(0.2)
                    return file.write(data)  # type: ignore[attr-defined, no-any-return]

                def flush(self) -> None:
                    file.flush()  # type: ignore[attr-defined]

            save(state, Slow(), *args)  # type: ignore[arg-type]

        torch.save = slow_save

    return setup


def never_ends(method: str, begun: Path) -> Callable[[], None]:
    """Let a method of the task touch the file `begun`, and take longer than any test waits."""

    def setup() -> None:
        def wait(_: DenoiseTask) -> None:
            begun.touch()
            time.sleep(100)

        setattr(DenoiseTask, method, wait)

    return setup


@pytest.mark.parametrize("saves", [0, 2])
def test_the_second_ctrl_c_leaves_at_once_though_a_save_is_long(tmp_path: Path, saves: int) -> None:
    process = Forked(
        tmp_path, *SMALL, "checkpoint.save_interval=5", "trainer.eval_interval=1000000", setup=slow_saves(saves)
    )
    run = tmp_path / "mine"
    wait_for(lambda: list(run.glob(f"checkpoints/.checkpoint_step_{5 * saves + 5}.pt*tmp")), process)
    time.sleep(0.3)
    process.type("\x03")
    time.sleep(0.5)
    process.type("\x03")
    began = time.monotonic()
    assert process.end() == 130, process.said
    assert time.monotonic() - began < AT_ONCE
    last = process.said.strip().splitlines()[-1].replace("^C", "")
    assert "Traceback" not in process.said
    if saves:
        said = f"{run} has everything up to step {5 * saves}; go on with: python -m train resume={run}"
        assert last == f"interrupted at once: {said}"
        assert intact(run) == [5, 10]
    else:
        assert last == "interrupted at once, before anything was saved: nothing is left of it"
        assert list(tmp_path.glob("mine*")) == []


def test_ctrl_c_twice_before_training_leaves_nothing(tmp_path: Path) -> None:
    process = Forked(tmp_path, *SMALL, setup=never_ends("train_data", tmp_path / "loading"))
    wait_for((tmp_path / "loading").exists, process)
    process.type("\x03")
    time.sleep(0.3)
    process.type("\x03")
    assert process.end() == 130, process.said
    assert process.said.replace("^C", "") == "interrupted at once, before anything was saved: nothing is left of it\n"
    assert not (tmp_path / "mine").exists()


def test_ctrl_c_once_before_there_is_a_run_leaves_nothing(tmp_path: Path) -> None:
    process = Forked(tmp_path, *SMALL, setup=never_ends("build_model", tmp_path / "building"))
    wait_for((tmp_path / "building").exists, process)
    process.type("\x03")
    assert process.end() == 130, process.said
    assert process.said.replace("^C", "") == "interrupted: no run was going on\n"
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("own_loader", [False, True])
def test_a_signal_to_the_whole_group_leaves_the_loading_processes_alive_until_all_is_saved(
    tmp_path: Path, own_loader: bool
) -> None:
    def with_loader() -> None:
        fetch = DenoiseTask.train_data

        def train_data(task: DenoiseTask) -> object:
            data = fetch(task)

            class Ready(Dataset[object]):
                def __len__(self) -> int:
                    return 23

                def __getitem__(self, index: int) -> object:
                    time.sleep(0.02)
                    return data.batch(list(range(index * 60, index * 60 + 60)))

            return DataLoader(Ready(), batch_size=None, num_workers=2, persistent_workers=True)

        DenoiseTask.train_data = train_data  # type: ignore[assignment,method-assign]

    arguments = (*SMALL, "trainer.num_workers=2", "checkpoint.save_interval=1000000")
    process = Forked(tmp_path, *arguments, setup=with_loader if own_loader else lambda: None)
    process.expect("epoch 2/")
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does
    assert process.end() == 128 + signal.SIGTERM, process.said
    run = tmp_path / "mine"
    assert intact(run)[-1] == json.loads((run / "status.json").read_text())["step"]


def test_after_an_interruption_at_once_the_run_goes_on(tmp_path: Path) -> None:
    process = Forked(tmp_path, *SMALL, "checkpoint.save_interval=5", setup=slow_saves(2))
    run = tmp_path / "mine"
    wait_for(lambda: list(run.glob("checkpoints/.checkpoint_step_15.pt*tmp")), process)
    process.send(signal.SIGINT)
    time.sleep(0.5)
    process.send(signal.SIGINT)
    assert process.end() == 130, process.said
    again = Forked(tmp_path, f"resume={run}", "trainer.max_steps=20")
    assert again.end() == 0, again.said
    assert "resumed at step 10\n" in again.said


@pytest.fixture
def ending_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SLURM job of which squeue says that it ends in 100 seconds."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    end = datetime.fromtimestamp(time.time() + 100)
    squeue.write_text(f"#!/bin/sh\necho {end:%Y-%m-%dT%H:%M:%S}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")


def test_before_the_end_of_the_job_it_saves_and_trains_on_and_sigterm_saves_once_more(
    tmp_path: Path, ending_job: None
) -> None:
    often = ("checkpoint.save_interval=1000000", "trainer.eval_interval=1000000")
    process = Forked(tmp_path, *SMALL, *often, "checkpoint.before_timeout=97s")
    process.expect("SLURM job 7 ends in 9")
    process.expect(": a checkpoint is saved now, and training goes on\n")
    checkpoints = tmp_path / "mine" / "checkpoints"
    wait_for(lambda: list(checkpoints.glob("checkpoint_step_*.pt")), process)
    (first,) = intact(tmp_path / "mine")
    journal = tmp_path / "mine" / "logs" / "metrics.jsonl"
    wait_for(lambda: max((entry["step"] for entry in read_journal(journal)), default=0) > first + 50, process)
    process.send(signal.SIGTERM)
    assert process.end() == 143, process.said
    assert intact(tmp_path / "mine")[0] == first
    assert len(intact(tmp_path / "mine")) == 2
    assert process.said.count("a checkpoint is saved now") == 1


@pytest.mark.parametrize("before", ["null", pytest.param("1s", marks=pytest.mark.slow)])
def test_without_before_timeout_and_long_before_the_end_nothing_is_saved(
    tmp_path: Path, ending_job: None, before: str
) -> None:
    ends = ("trainer.max_steps=30", "checkpoint.save_interval=1000000", "trainer.eval_interval=1000000")
    process = Forked(tmp_path, *SMALL, *ends, f"checkpoint.before_timeout={before}")
    assert process.end() == 0, process.said
    assert intact(tmp_path / "mine") == [30]
