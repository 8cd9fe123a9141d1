"""Why SLURM stops a job, from what its controller says: a fake scontrol that says what a real one has said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from expkit.requeue import Stop, requeue, why_stopped

NOW = datetime(2026, 1, 1, 12, 0, 0)
JOB = {"job_id": "7"}

Scontrol = Callable[[str], Path]


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scontrol:
    """Call as `scontrol(script)`: puts it alone on the PATH; returns the file of what was asked."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(script: str) -> Path:
        (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{script}\n')
        (tmp_path / "scontrol").chmod(0o755)
        return tmp_path / "asked"

    return write


def job(state: str, minutes_left: float = 60, **more: str) -> str:
    fields = {"JobId": "7", "JobName": "a=b", "JobState": state, "Reason": "None", "Restarts": "0"}
    fields["EndTime"] = f"{NOW + timedelta(minutes=minutes_left):%Y-%m-%dT%H:%M:%S}"
    return "echo '" + " ".join(f"{key}={value}" for key, value in {**fields, **more}.items()) + "'"


@pytest.mark.parametrize(
    ("said", "stop"),
    [
        (job("RUNNING", 1), Stop("60 s before the time limit of its job")),
        (job("RUNNING", 600), Stop("10 h before the time limit of its job")),
        (
            job("RUNNING", 0.25, PreemptTime="2026-01-01T11:59:59"),
            Stop("preempted, with 15 s to leave", needs_requeue=True),
        ),
        (job("RUNNING", PreemptTime="None"), Stop("60 min before the time limit of its job")),
        (job("COMPLETING", Restarts="1"), Stop("its job is being requeued")),
        (job("PENDING", Restarts="1"), Stop("its job is being requeued")),
        (job("COMPLETING"), Stop("its job is being cancelled")),
        (job("CANCELLED"), Stop("its job is being cancelled")),
        (job("TIMEOUT", 0, Reason="TimeLimit"), Stop("time limit of its job")),
        (job("RUNNING", EndTime="Unknown"), Stop()),
        ("echo 'Invalid job id specified' >&2; exit 1", Stop()),
        ("echo nonsense", Stop()),
    ],
)
def test_the_controller_says_why(said: str, stop: Stop, scontrol: Scontrol) -> None:
    asked = scontrol(said)
    assert why_stopped(JOB, NOW.timestamp()) == stop
    assert asked.read_text() == "-o show job 7\n"


def test_a_start_that_was_requeued_before_is_told_from_one_that_is_requeued_now(scontrol: Scontrol) -> None:
    scontrol(job("COMPLETING", Restarts="2"))
    assert why_stopped({**JOB, "restart_count": "1"}, NOW.timestamp()).why == "its job is being requeued"
    assert why_stopped({**JOB, "restart_count": "2"}, NOW.timestamp()).why == "its job is being cancelled"


def test_outside_slurm_or_without_its_commands_nothing_is_said(scontrol: Scontrol) -> None:
    assert why_stopped(JOB) == Stop()
    asked = scontrol(job("RUNNING"))
    assert why_stopped({}) == Stop() and not requeue()
    assert not asked.exists()


def test_a_task_of_an_array_is_requeued_by_its_name(scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("JOB_ID", "9"), ("ARRAY_JOB_ID", "7"), ("ARRAY_TASK_ID", "2")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    asked = scontrol("true")
    assert requeue()
    assert asked.read_text() == "requeue 7_2\n"


def test_a_refusal_is_said_with_what_to_type(
    scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    scontrol("echo 'Requested operation is presently disabled' >&2; exit 1")
    assert not requeue()
    (said,) = [record.getMessage() for record in caplog.records]
    why = "Requested operation is presently disabled"
    assert said == f"SLURM job 7 could not be requeued: {why}; once it can be: scontrol requeue 7"
