"""SLURM's reason: from sacct, or from scontrol where there is no accounting. Both are fakes on the PATH."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from expkit import jobstate
from expkit.jobstate import job_verdict

NOW = datetime(2026, 1, 1, 12, 0, 0)
ALIVE = (NOW + timedelta(minutes=30)).timestamp()
LATER = f"{NOW + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"
THEN = f"{NOW:%Y-%m-%dT%H:%M:%S}"

Commands = Callable[..., Path]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Call as `commands(sacct=script, ...)`: puts them alone on the PATH; returns the file of what was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(**scripts: str) -> Path:
        for name, script in scripts.items():
            (folder / name).write_text(
                f'#!/bin/sh\necho "{name} $@ $SLURM_TIME_FORMAT" >> {tmp_path}/asked\n{script}\n'
            )
            (folder / name).chmod(0o755)
        return tmp_path / "asked"

    return write


def echo(*rows: str) -> str:
    return "\n".join(f"echo '{row}'" for row in rows)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([f"7|OUT_OF_MEMORY|0:125|{THEN}"], "OUT_OF_MEMORY"),
        ([f"7|TIMEOUT|0:0|{THEN}", f"7.batch|CANCELLED|0:15|{THEN}"], "TIMEOUT"),
        ([f"7|NODE_FAIL|1:0|{THEN}"], "NODE_FAIL"),
        ([f"7|PREEMPTED|0:0|{THEN}"], "PREEMPTED"),
        ([f"7|CANCELLED by 1000|0:0|{THEN}"], "CANCELLED by 1000"),
        ([f"7|FAILED|1:0|{THEN}", f"7.0|OUT_OF_MEMORY|0:125|{LATER}"], "OUT_OF_MEMORY"),  # a step's
        ([f"7|FAILED|0:11|{THEN}"], "FAILED (SIGSEGV)"),
        ([f"7|FAILED|137:0|{THEN}"], "FAILED (SIGKILL)"),
        ([f"7|FAILED|1:0|{THEN}"], None),
        ([f"7|RUNNING|0:0|{THEN}"], None),
        ([f"7|COMPLETED|0:0|{THEN}"], None),
        # It was requeued twice: what ended the run is the one that it was part of.
        (["7|NODE_FAIL|0:0|2025-12-31T00:00:00", f"7|PREEMPTED|0:0|{THEN}", f"7|RUNNING|0:0|{LATER}"], "PREEMPTED"),
        ([f"7|PREEMPTED|0:0|{LATER}"], None),
        (["7|PENDING|0:0|Unknown", "rubbish", "7|x"], None),
    ],
)
def test_sacct_says_it(commands: Commands, rows: list[str], verdict: str | None) -> None:
    asked = commands(sacct=echo(*rows))
    assert job_verdict({"job_id": "7"}, ALIVE) == verdict
    assert asked.read_text() == "sacct -j 7 -D -n -P -o JobID,State,ExitCode,Start standard\n"


@pytest.mark.parametrize("accounting", ["exit 1", "echo no accounting; exit 1", ""])
def test_without_accounting_the_controller_does(commands: Commands, accounting: str) -> None:
    line = f"JobId=7 JobName=x UserId=me(1) JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125 StartTime={THEN}"
    asked = commands(sacct=accounting, scontrol=echo(line))
    assert job_verdict({"job_id": "7"}, ALIVE) == "OUT_OF_MEMORY"
    assert asked.read_text().splitlines()[1] == "scontrol -o show job 7 standard"
    assert job_verdict({"job_id": "7"}, ALIVE - 7200) is None, "it is of a later start of the same job"


def test_a_task_of_an_array_asks_for_itself(commands: Commands) -> None:
    asked = commands(sacct=echo(f"7_3|TIMEOUT|0:0|{THEN}"))
    assert job_verdict({"job_id": "9", "array_job_id": "7", "array_task_id": "3"}, ALIVE) == "TIMEOUT"
    assert " -j 7_3 " in asked.read_text()


def test_outside_slurm_nobody_is_asked(commands: Commands) -> None:
    asked = commands(sacct="")
    assert job_verdict({}, ALIVE) is None
    assert not asked.exists()


def test_commands_that_are_missing_or_hang_are_not_waited_for(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job_verdict({"job_id": "7"}, ALIVE) is None
    monkeypatch.setattr(jobstate, "_PATIENCE", 0.1)
    commands(sacct="exec /bin/sleep 30")
    began = time.monotonic()
    assert job_verdict({"job_id": "7"}, ALIVE) is None
    assert time.monotonic() - began < 20


def test_the_environment_of_this_process_is_kept(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/mine.conf")
    commands(sacct=f'[ "$SLURM_CONF" = /etc/mine.conf ] && echo "7|TIMEOUT|0:0|{THEN}"')
    assert job_verdict({"job_id": "7"}, ALIVE) == "TIMEOUT"
    assert "SLURM_TIME_FORMAT" not in os.environ
