"""The end of a SLURM job: from the environment, or from squeue; and the moment before it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from expkit import timelimit
from expkit.errors import UserError
from expkit.timelimit import TimeLimit, job_end

Squeue = Callable[[str], Path]


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Squeue:
    """Call as `squeue(script)`: puts a `squeue` on the PATH, which writes down its arguments; returns that file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(script: str) -> Path:
        file = folder / "squeue.new"
        file.write_text(f'#!/bin/sh\necho "$@ $SLURM_TIME_FORMAT" >> {tmp_path}/asked\n{script}\n')
        file.chmod(0o755)
        file.rename(folder / "squeue")
        return tmp_path / "asked"

    return write


@pytest.fixture(autouse=True)
def _job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")


def at(seconds: float) -> str:
    """What squeue says of a job that ends in so many seconds."""
    return f"echo {datetime.fromtimestamp(time.time() + seconds):%Y-%m-%dT%H:%M:%S}"


def wait_until_due(limit: TimeLimit, seconds: float = 10) -> float:
    """Return after how many seconds it was due."""
    began = time.monotonic()
    while not limit.due():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


def never_due(limit: TimeLimit, seconds: float) -> bool:
    time.sleep(seconds)
    return not limit.due()


def test_the_environment_says_when_the_job_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + 4)))
    flags: list[int] = []
    with caplog.at_level(logging.INFO, "expkit"), TimeLimit(2, on_due=lambda: flags.append(1)) as limit:
        assert not limit.due()
        assert 0.5 < wait_until_due(limit) < 4
        assert not limit.due(), "once"
    assert flags == [1]
    (line,) = caplog.messages
    assert line.startswith("SLURM job 7 ends in ")
    assert line.endswith(": a checkpoint is saved now, and training goes on")


def test_otherwise_squeue_does(squeue: Squeue) -> None:
    asked = squeue(at(4))
    with TimeLimit("2s") as limit:
        assert 0.5 < wait_until_due(limit) < 4
    assert set(asked.read_text().splitlines()) == {"-h -j 7 -o %e standard"}


def test_a_task_of_an_array_asks_for_itself(squeue: Squeue, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = squeue(at(100))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job_end() == pytest.approx(time.time() + 100, abs=3)
    assert asked.read_text() == "-h -j 7_3 -o %e standard\n"


def test_a_limit_that_has_been_extended_is_seen_in_time(squeue: Squeue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + 2)))
    squeue(at(1000))
    with TimeLimit(1) as limit:
        assert never_due(limit, 2.5)


def test_a_limit_that_is_extended_afterwards_makes_it_due_again(
    squeue: Squeue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelimit, "_AGAIN", 0.3)
    squeue(at(2))
    with TimeLimit(1) as limit:
        wait_until_due(limit)
        squeue(at(3))
        assert 0.3 < wait_until_due(limit) < 4


def test_with_less_time_left_it_is_due_at_once(squeue: Squeue) -> None:
    squeue(at(30))
    with TimeLimit("2min") as limit:
        assert wait_until_due(limit) < 5


@pytest.mark.parametrize("script", ["echo N/A", "echo NONE", "exit 1", "echo error >&2; exit 1", "", "echo 9999999-1"])
def test_without_an_end_it_is_never_due_and_says_so_to_those_who_debug(
    squeue: Squeue, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    squeue(script)
    with caplog.at_level(logging.DEBUG, "expkit"), TimeLimit(1) as limit:
        assert never_due(limit, 0.2)
    assert caplog.messages == ["the end of SLURM job 7 is not known: no checkpoint is saved before it"]
    assert caplog.records[0].levelno == logging.DEBUG


def test_a_squeue_that_hangs_or_is_missing_is_not_waited_for(squeue: Squeue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelimit, "_PATIENCE", 0.3)
    squeue("exec sleep 30")
    began = time.monotonic()
    with TimeLimit(1) as limit:
        assert not limit.due()
        assert time.monotonic() - began < 0.2, "the loop does not wait for it at all"
    assert job_end() is None
    assert time.monotonic() - began < 5
    monkeypatch.setenv("PATH", "")
    assert job_end() is None


def test_outside_slurm_nobody_is_asked(squeue: Squeue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    asked = squeue(at(1))
    with TimeLimit(2) as limit:
        assert never_due(limit, 0.2)
    assert not asked.exists()


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(120, 120), (1.5, 1.5), ("120", 120), ("120s", 120), ("2min", 120), ("2 min", 120), ("1h", 3600)],
)
def test_before_is_given_in_seconds_or_with_a_unit(
    monkeypatch: pytest.MonkeyPatch, given: float | str, seconds: float
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    assert TimeLimit(given).before == seconds


@pytest.mark.parametrize("given", [0, -1, True, "soon", "2 days", "", "nan", float("inf")])
def test_what_is_no_time_is_one_line(given: float | str) -> None:
    with pytest.raises(UserError, match="it must be a time of more than 0: seconds, 120s, 2min or 1h"):
        TimeLimit(given)
