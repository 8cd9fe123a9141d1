"""Jobs of a real SLURM, disturbed in all ways: the run goes on in its own directory and ends bit for bit the same."""

from __future__ import annotations

import pytest

from tests.slurm.conftest import Cluster
from tests.slurm.jobs import Case, ask, assert_same, state, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def check(case: Case, whole: Case, state: str, why: str, times: int = 1) -> None:
    """It has been gone on with so often, says why, and has ended like `whole`."""
    assert_same(case, whole)
    status = case.status
    assert status["restarts"] == len(status["ended_before"]) == times
    for each in status["ended_before"]:
        assert each["state"] == state and why in each["why"], each
        assert 0 < each["step"] < status["step"]
        assert each["slurm"]["job_id"] == status["slurm"]["job_id"], "it is the same job"
        assert each["time"]
    assert len(case.resumed_at()) == times


def test_a_requeued_job_goes_on(case: Case, whole: Case) -> None:
    with case.submitted() as submitter:
        for number in range(2):
            job = case.reaches(10 + 20 * number, restarts=number)
            ask("scontrol", "requeue", job)
        case.reaches(50, restarts=2)
        case.finishes()
        assert submitter.end(120) == 0, submitter.said
    check(case, whole, "preempted", "SIGTERM; its job is being requeued", times=2)
    stopped = [each["step"] for each in case.status["ended_before"]]
    assert case.resumed_at() == stopped, "nothing was trained twice"


def test_before_its_time_limit_a_job_saves_and_is_requeued(case: Case, whole: Case) -> None:
    with case.submitted("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=60"):
        case.reaches(10)
        wait_for(lambda: case.status.get("restarts") == 1, case.said)
        case.finishes()
    check(case, whole, "preempted", " s before the time limit of its job")
    assert case.status["ended_before"][0]["why"].startswith("SIGUSR2; ")


def test_the_signal_of_preemption_requeues_a_short_job_too(case: Case, whole: Case) -> None:
    with case.submitted("hydra.launcher.timeout_min=10", "trainer.num_workers=2"):
        ask("scancel", "--signal=USR2", case.reaches(10))
        wait_for(lambda: case.status.get("restarts") == 1, case.said)
        case.finishes()
    check(case, whole, "preempted", "SIGUSR2")


def test_a_job_that_another_preempts_leaves_in_time_and_comes_back(case: Case, whole: Case, slurm: Cluster) -> None:
    with case.submitted("hydra.launcher.partition=low"):
        job = case.reaches(10)
        node = slurm.node_of(job)
        ask("sbatch", "-p", "high", "-w", node, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5")
        wait_for(lambda: case.status.get("restarts") == 1, case.said)
        case.finishes()
    check(case, whole, "preempted", "SIGTERM; preempted, with ")


def test_sigterm_alone_saves_and_the_job_can_be_requeued_by_hand(case: Case, whole: Case) -> None:
    with case.submitted():
        job = case.reaches(10)
        ask("scancel", "--signal=TERM", job)
        wait_for(lambda: "JobState=FAILED" in ask("scontrol", "-o", "show", "job", job), case.said)
        assert case.status["state"] == "preempted"
        ask("scontrol", "requeue", job)
        wait_for(lambda: case.status.get("restarts") == 1, case.said)
        case.finishes()
    check(case, whole, "preempted", "SIGTERM; ")


def test_a_job_whose_node_dies_goes_on_on_another(case: Case, whole: Case, slurm: Cluster) -> None:
    with case.submitted("checkpoint.save_interval=10"):
        job = case.reaches(25)
        node = slurm.node_of(job)
        slurm.lose(node)
        try:
            wait_for(lambda: case.status.get("restarts") == 1, case.said)
            assert slurm.node_of(job) != node
        finally:
            slurm.restore(node)
        case.finishes()
    check(case, whole, "killed", "; SLURM has started its job again")


def test_a_job_that_does_not_leave_in_time_is_killed_and_goes_on_from_its_last_checkpoint(
    case: Case, whole: Case
) -> None:
    with case.submitted("checkpoint.save_interval=10"):
        job = case.reaches(25)
        hang = case.go.with_name("hang")
        hang.touch()
        ask("scontrol", "requeue", job)
        wait_for(lambda: state(job) == ("RUNNING", 1), case.said)
        hang.unlink()
        wait_for(lambda: case.status.get("restarts") == 1, case.said)
        case.finishes()
    check(case, whole, "killed", "; SLURM has started its job again")
    assert 10 <= case.resumed_at()[0] < case.status["ended_before"][0]["step"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("times", [20])
def test_it_may_be_requeued_at_any_moment_again_and_again(case: Case, whole: Case, times: int) -> None:
    with case.submitted("checkpoint.save_interval=10"):
        case.requeued(case.reaches(5), times, seed=7)
        case.finishes()
    assert_same(case, whole)
    status = case.status
    assert status["restarts"] == len(status["ended_before"]) <= times
    print(status["ended_before"], case.resumed_at())
