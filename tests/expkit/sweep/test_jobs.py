"""How a job stands: its own word, its run's, SLURM's, and this machine's."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from expkit.errors import UserError
from expkit.sweep.folder import Submission
from expkit.sweep.jobs import chosen, jobs_of
from tests.expkit.sweep.conftest import Made

Slurm = Callable[..., Path]


def stands(made: Made) -> dict[int, tuple[str, str]]:
    return {job.number: (job.state, job.why) for job in jobs_of(made.folder)}


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("said", "slurm_says", "state"),
    [
        ("queued", "PENDING", "queued"),
        ("queued", "RUNNING", "running"),
        ("queued", "CANCELLED", "cancelled"),
        ("queued", "NODE_FAIL", "failed"),
        ("queued", None, "failed"),
        ("running", "RUNNING", "running"),
        ("running", "PENDING", "queued"),  # requeued before it could say anything
        ("running", "OUT_OF_MEMORY", "failed"),
        ("running", None, "failed"),
        ("preempted", "PENDING", "queued"),
        ("preempted", "RUNNING", "running"),
        ("preempted", "TIMEOUT", "preempted"),
        ("interrupted", None, "preempted"),
        ("done", None, "done"),
        ("failed", None, "failed"),
    ],
)
def test_slurm_knows_what_a_job_cannot_say(
    made: Made, slurm: Slurm, said: str, slurm_says: str | None, state: str
) -> None:
    made.job(0, said)
    made.submitted(0)
    slurm(*([f"7_0|{slurm_says}"] if slurm_says else []))
    found, why = stands(made)[0]
    assert found == state
    if state == "failed" and slurm_says:
        assert why == f"SLURM says {slurm_says}"
    elif state == "failed":
        assert why == "it ended without a word"


def test_without_slurms_answer_the_last_word_counts(made: Made, slurm: Slurm) -> None:
    for number, state in enumerate(("queued", "running", "done")):
        made.job(number, state)
    made.submitted(0, 1, 2)
    slurm(code=1, error="slurm_load_jobs error: Unable to contact slurm controller")
    assert [state for state, _ in stands(made).values()] == ["queued", "running", "done"]
    assert "SLURM does not answer" in stands(made)[1][1]


def test_what_was_cancelled_is_cancelled_until_it_is_submitted_again(made: Made, slurm: Slurm) -> None:
    for number in (0, 1):
        made.job(number, "preempted")
    made.submitted(0, 1)
    made.folder.note(Submission("cancelled", {0: None, 1: None}))
    slurm()
    assert [state for state, _ in stands(made).values()] == ["cancelled", "cancelled"]
    made.submitted(1)
    slurm("7_1|PENDING")
    assert [state for state, _ in stands(made).values()] == ["cancelled", "queued"]


def test_a_job_that_ends_while_slurm_is_asked_is_done(made: Made, slurm: Slurm) -> None:
    made.job(0, "done")
    last = made.folder.file(0).read_bytes()
    made.job(0, "running")
    made.submitted(0)
    slurm("7_0|COMPLETED")
    (made.outputs / "last.json").write_bytes(last)
    squeue = made.outputs.parent / "bin" / "squeue"
    squeue.write_text(f"#!/bin/sh\ncp {made.outputs}/last.json {made.folder.file(0)}\necho '7_0|COMPLETED'\n")
    assert stands(made)[0] == ("done", "")


def test_a_local_job_that_was_cancelled_in_time_is_not_queued_any_more(made: Made) -> None:
    made.job(0)
    made.job(1)
    made.submitted(0, kind="local", host=platform.node(), pid=os.getpid())  # who starts the others goes on
    made.folder.note(Submission("cancelled", {0: None, 1: None}))  # 1: SLURM has refused it
    assert stands(made) == {0: ("cancelled", ""), 1: ("cancelled", "")}


def test_jobs_whose_submission_was_killed_are_not_queued_for_ever(made: Made) -> None:
    made.job(0)
    assert stands(made)[0] == ("queued", "")
    made.folder.about.write_text(json.dumps({"host": platform.node(), "pid": os.getpid()}))
    assert stands(made)[0] == ("queued", "")
    made.folder.about.write_text(json.dumps({"host": platform.node(), "pid": gone()}))
    assert stands(made)[0][0] == "cancelled"


def test_local_jobs_are_queued_as_long_as_there_is_who_starts_them(made: Made) -> None:
    made.job(0)
    made.job(1)
    made.submitted(0, kind="local", host=platform.node(), pid=1)
    made.submitted(1, kind="local", host=platform.node(), pid=gone())
    found = stands(made)
    assert found[0][0] == "queued"
    assert found[1] == ("cancelled", "it was never started: the process that starts the sweep's jobs has ended")


def test_a_run_that_was_killed_has_failed_and_says_why(made: Made) -> None:
    made.job(0, "running", run=made.run(0, pid=gone(), heartbeat_time=time.time()), host=platform.node())
    made.job(1, "running", run=made.run(1), host=platform.node())
    found = stands(made)
    assert found[0][0] == "failed" and "SIGKILL" in found[0][1]
    assert found[1] == ("running", "")


def test_the_last_line_of_the_log_tells_what_nobody_else_does(made: Made, slurm: Slurm) -> None:
    made.job(0)
    made.submitted(0)
    slurm()
    log = made.folder.root / ".submitit" / "7_0" / "7_0_0_log.err"
    log.parent.mkdir(parents=True)
    noted = "submitit WARNING (2026-11-22 16:30:22,239) - Bypassing signal SIGCONT"
    log.write_text(f"slurmstepd: error\n/bin/sh: python: not found\n\n{noted}\n")
    job = jobs_of(made.folder)[0]
    assert (job.why, job.log) == ("/bin/sh: python: not found", log)
    slurm("7_0|FAILED")
    assert jobs_of(made.folder)[0].why == "SLURM says FAILED; /bin/sh: python: not found"


def test_a_job_id_from_a_file_leads_nowhere_else(made: Made, tmp_path: Path) -> None:
    made.job(0, "failed", job_id="../../../secret")
    (tmp_path / "secret").mkdir()
    assert jobs_of(made.folder)[0].log is None


def test_jobs_are_named_by_numbers_and_states(made: Made) -> None:
    for number, state in enumerate(("failed", "done", "failed", "preempted")):
        made.job(number, state)
    jobs = jobs_of(made.folder)
    assert [[job.number for job in chosen(jobs, typed)] for typed in ("failed", "3,1", "unfinished", "all")] == [
        [0, 2],
        [1, 3],
        [0, 2, 3],
        [0, 1, 2, 3],
    ]
    with pytest.raises(UserError, match="there is no job 9: they are numbered 0 to 3"):
        chosen(jobs, "9")
    with pytest.raises(UserError, match="faild: name jobs by numbers"):
        chosen(jobs, "faild")
