"""scripts/train.sbatch on a real SLURM: a run without submitit that is stopped and requeued in all ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.slurm.conftest import Cluster
from tests.slurm.jobs import Case, ask, assert_same, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_it_is_requeued_when_it_was_stopped_and_saved(
    sbatch: Callable[..., str], case: Case, whole: Case, slurm: Cluster
) -> None:
    job = sbatch("--partition=low", "--time=10")
    assert case.reaches(10) == job
    ask("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1 sends
    case.reaches(20, restarts=1)
    ask("scontrol", "requeue", job)
    case.reaches(30, restarts=2)
    ask("sbatch", "-p", "high", "-w", slurm.node_of(job), "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    wait_for(lambda: case.status.get("restarts") == 3, case.said)
    case.finishes()
    wait_for(lambda: "JobState=COMPLETED" in ask("scontrol", "-o", "show", "job", job), case.said)
    assert_same(case, whole)
    why = [each["why"] for each in case.status["ended_before"]]
    assert why[0].startswith("SIGUSR1; ") and why[1] == "SIGTERM; its job is being requeued", why
    assert why[2].startswith("SIGTERM; preempted, with "), why
    assert case.resumed_at() == [each["step"] for each in case.status["ended_before"]]
    assert (case.folder / f"train-{job}.out").read_text().count("resumed at step") == 3, "one file for all starts"


def test_a_job_that_fails_or_is_cancelled_is_not_requeued(sbatch: Callable[..., str], case: Case) -> None:
    wrong, cancelled = sbatch(more="optimizer=nothing"), sbatch()
    assert case.reaches(5) == cancelled
    ask("scancel", cancelled)
    for job, state in ((wrong, "FAILED"), (cancelled, "CANCELLED")):
        wait_for(lambda: f"JobState={state} " in ask("scontrol", "-o", "show", "job", job), case.said)  # noqa: B023
        assert " Restarts=0 " in ask("scontrol", "-o", "show", "job", job)
    assert "optimizer=nothing" in (case.folder / f"train-{wrong}.out").read_text()
    assert case.status["state"] == "preempted"
    assert case.status["scheduler"] == "its job is being cancelled"
