"""status.json: what a run is doing right now."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from expkit import status as module
from expkit.machine.vitals import Vitals
from expkit.status import StatusFile
from expkit.stopping import StopSignals


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "status.json"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def started(path: Path) -> Iterator[Callable[..., StatusFile]]:
    """Makes status files with fast heartbeats that are stopped at the end."""
    made: list[StatusFile] = []

    def start(observe: Callable[[], dict[str, Any]] = dict, **arguments: Any) -> StatusFile:
        status = StatusFile(path, observe, interval=0.01)
        made.append(status)
        status.start(**arguments)
        return status

    yield start
    for status in made:
        status.stop("finished")


def test_it_has_every_field_of_the_contract(
    path: Path, started: Callable[..., StatusFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    started(lambda: {"step": 5, "epoch": 1, "metrics": {"loss": 0.5, "bad": math.nan}, "trackers": {}}, restarts=2)
    content = read(path)
    assert content["state"] == "starting"
    assert (content["step"], content["epoch"]) == (5, 1)
    assert content["metrics"] == {"loss": 0.5, "bad": None}
    assert content["heartbeat"] >= 1
    assert abs(content["heartbeat_time"] - time.time()) < 60
    assert (content["pid"], content["host"]) == (os.getpid(), platform.node())
    assert content["slurm"] == {"job_id": "17"}
    assert content["restarts"] == 2
    assert content["trackers"] == {}


def test_the_heartbeat_counts_up_while_the_process_lives(path: Path, started: Callable[..., StatusFile]) -> None:
    step = iter(range(10**9))
    started(lambda: {"step": next(step)})
    first = read(path)
    wait_for(lambda: read(path)["heartbeat"] > first["heartbeat"] + 3)
    assert read(path)["step"] > first["step"]


@pytest.mark.parametrize("state", ["running", "failed", "preempted", "interrupted"])
def test_a_state_is_written_at_once(path: Path, started: Callable[..., StatusFile], state: str) -> None:
    started().set(state)
    assert read(path)["state"] == state


def test_stopping_ends_the_heartbeat_and_leaves_the_state_behind(
    path: Path, started: Callable[..., StatusFile]
) -> None:
    status = started()
    status.stop("finished")
    before = read(path)
    time.sleep(0.05)
    assert read(path) == before
    assert before["state"] == "finished"


def test_a_reader_never_sees_a_part(path: Path, started: Callable[..., StatusFile], tmp_path: Path) -> None:
    sizes = iter(range(10**9))
    started(lambda: {"metrics": {str(number): 0.5 for number in range(next(sizes) % 500)}})
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        assert read(path)["host"] == platform.node()


def test_a_full_disk_is_said_once_and_again_only_after_it_had_recovered(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    status = StatusFile(path, dict)
    write_json = module.write_json
    for failing, said in ((True, 1), (True, 1), (False, 2), (False, 2), (True, 3)):
        monkeypatch.setattr(module, "write_json", full if failing else write_json)
        status.write()
        assert len(caplog.records) == said
    assert caplog.records[0].getMessage() == f"{path} cannot be written (No space left on device): training goes on"
    assert caplog.records[1].getMessage() == f"{path} can be written again: 2 attempt(s) had failed"


def test_the_heartbeat_survives_what_goes_wrong_in_the_run_that_it_observes(
    path: Path, started: Callable[..., StatusFile], caplog: pytest.LogCaptureFixture
) -> None:
    calls = iter(range(10**9))

    def observe() -> dict[str, Any]:
        if 2 <= next(calls) <= 4:
            raise RuntimeError("dictionary changed size during iteration")
        return {}

    started(observe)
    wait_for(lambda: read(path)["heartbeat"] > 8)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} cannot be written (RuntimeError: dictionary changed size during iteration): training goes on",
        f"{path} can be written again: 3 attempt(s) had failed",
    ]


def test_a_failure_says_its_exception_and_a_stop_its_signal(path: Path) -> None:
    status = StatusFile(path, dict)
    try:
        raise RuntimeError("password=hunter2 is wrong")
    except RuntimeError:
        status.stop("failed")
    assert read(path)["error"] == "RuntimeError: password=*** is wrong"
    status = StatusFile(path, dict)
    with StopSignals(lambda: None) as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        wait_for(lambda: signals.received is not None)
        status.stop(signals.state)
    assert read(path)["signal"] == "SIGUSR2"
    status = StatusFile(path, dict)
    status.stop("finished")
    assert not {"signal", "error"} & read(path).keys()


def test_a_state_is_left_behind_though_a_signal_handler_raises_meanwhile(
    path: Path, started: Callable[..., StatusFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(timeout: float) -> None:
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")

    status = started()
    join = status._thread.join
    monkeypatch.setattr(status._thread, "join", interrupted)
    try:
        raise ConnectionResetError(104, "Connection reset by peer")
    except ConnectionResetError:
        with pytest.raises(RuntimeError):
            status.stop("failed")
    assert read(path)["state"] == "failed"
    assert read(path)["error"].startswith("RuntimeError: DataLoader worker (pid 5) is killed by signal: Killed.")
    join(timeout=10)
    monkeypatch.undo()


def test_it_notes_what_its_death_will_be_explained_by(path: Path, started: Callable[..., StatusFile]) -> None:
    started()
    assert read(path)["machine"] == {**Vitals().read(), **_of_memory(read(path)["machine"])}


def _of_memory(machine: dict[str, Any]) -> dict[str, Any]:
    """What changes all the time."""
    return {name: value for name, value in machine.items() if name.startswith("memory_")}


def test_there_is_a_forecast_as_long_as_it_runs(path: Path, started: Callable[..., StatusFile]) -> None:
    status = started(lambda: {"step": 5, "total_steps": 10})
    assert "forecast" not in read(path)
    status.set("running")
    assert read(path)["forecast"] == {}, "nothing is known yet"
    status.stop("finished")
    assert "forecast" not in read(path)
