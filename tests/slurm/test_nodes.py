"""Jobs of two nodes with two tasks each, disturbed in all ways: one run, which ends bit for bit the same."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.slurm.conftest import Cluster
from tests.slurm.jobs import STEPS, Case, ask, assert_same, state, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

NODES = ("hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=2", "checkpoint.save_interval=10")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The run of four processes that nothing has disturbed, and that SLURM has no part in."""
    case = Case(tmp_path_factory.mktemp("whole"))
    case.go.touch()
    process = case.typed("trainer.processes=4", "checkpoint.save_interval=10")
    assert process.end(240) == 0, process.said
    return case


def task_of(job: str, rank: int) -> int:
    """Return the number of the process that a rank of a job is."""
    wanted = {f"SLURM_PROCID={rank}", f"SLURM_JOB_ID={job}", "SUBMITIT_EXECUTOR=slurm"}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted <= {*(folder / "environ").read_text(errors="replace").split("\0")}:
                return int(folder.name)
        except OSError:  # it has ended
            continue
    raise AssertionError(f"rank {rank} of job {job} is not there")


def test_a_requeued_job_goes_on_on_all_nodes(case: Case, whole: Case) -> None:
    with case.submitted(*NODES) as submitter:
        ask("scontrol", "requeue", case.reaches(7))
        ask("scancel", "--signal=USR2", case.reaches(15, restarts=1))
        case.reaches(22, restarts=2)
        case.finishes()
        assert submitter.end(120) == 0, submitter.said
    assert_same(case, whole)
    status = case.status
    why = [each["why"] for each in status["ended_before"]]
    assert why[0] == "SIGTERM; its job is being requeued" and why[1].startswith("SIGUSR2"), why
    assert case.resumed_at() == [each["step"] for each in status["ended_before"]], "nothing was trained twice"


def test_a_signal_to_one_rank_requeues_a_sharded_model(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = Case(tmp_path_factory.mktemp("whole_fsdp"))
    whole.go.touch()
    process = whole.typed("trainer.processes=4", "trainer.strategy=fsdp", "checkpoint.save_interval=10")
    with case.submitted(*NODES, "trainer.strategy=fsdp"):
        os.kill(task_of(case.reaches(7), 3), signal.SIGUSR2)
        assert process.end(240) == 0, process.said
        case.reaches(15, restarts=1)
        case.finishes()
    assert_same(case, whole)
    assert any(name.endswith(".distcp") for name in case.checkpoint())
    assert case.resumed_at() == [each["step"] for each in case.status["ended_before"]]


def test_a_rank_that_fails_hangs_or_is_gone_ends_the_job_and_is_named(case: Case, whole: Case, slurm: Cluster) -> None:
    timeout = 20.0
    fails = Path(f"{case.go}.fails_in_3")
    silent = "has said nothing for "
    repair = ExitStack()

    def lose() -> None:
        slurm.lose("n2")
        repair.callback(slurm.restore, "n2")

    harm: list[tuple[str, str, Callable[[str], None]]] = [
        (r"rank 3 \(of 4, on n2, ", "failed: OSError: the disk with the data has gone away", lambda _: fails.touch()),
        (r"rank 2 \(of 4, on n2, ", silent, lambda job: os.kill(task_of(job, 2), signal.SIGKILL)),
        (r"rank 1 \(of 4, on n1, ", silent, lambda job: os.kill(task_of(job, 1), signal.SIGSTOP)),
        (r"rank [23] \(of 4, on n2, ", silent, lambda _: lose()),
    ]
    with repair, case.submitted(*NODES, f"trainer.timeout={timeout}"):
        for restarts, (rank, what, do) in enumerate(harm):
            job = case.reaches(12 * (restarts + 1), restarts=restarts)
            do(job)
            began = time.monotonic()
            wait_for(lambda: case.status.get("state") == "failed", case.said)
            assert time.monotonic() - began < 2 * timeout, "a busy machine needs more than the time-out itself"
            wait_for(lambda: state(job)[0] in ("FAILED", "PENDING"), case.said)  # noqa: B023
            found = re.search(rf"{rank}pid \d+\) {what}", case.status["error"])
            assert found, case.status["error"]
            [text] = case.folder.glob("outputs/*/logs/training.log")
            assert found[0] in text.read_text()
            [file] = case.folder.glob("outputs/multirun/*/jobs/0.json")
            job_file = json.loads(file.read_bytes())
            assert job_file["state"] == "failed" and found[0] in job_file["error"], job_file
            fails.unlink(missing_ok=True)
            if state(job)[0] == "FAILED":
                ask("scontrol", "requeue", job)
        repair.close()
        case.reaches(50, restarts=4)
        case.finishes()
    assert_same(case, whole)


@pytest.mark.parametrize(
    ("script", "options"),
    [("train.sbatch", ("--nodes=2", "--ntasks-per-node=2")), ("torchrun.sbatch", ("--nodes=2", "--ntasks-per-node=1"))],
)
def test_scripts_for_several_nodes(
    sbatch: Callable[..., str], case: Case, whole: Case, script: str, options: tuple[str, ...]
) -> None:
    job = sbatch(*options, "--time=10", script=script, more="checkpoint.save_interval=10")
    assert case.reaches(7) == job
    ask("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1 sends
    case.reaches(15, restarts=1)
    ask("scontrol", "requeue", job)
    case.reaches(22, restarts=2)
    case.finishes()
    wait_for(lambda: state(job)[0] == "COMPLETED", case.said)
    assert_same(case, whole)
    why = [each["why"] for each in case.status["ended_before"]]
    assert why[0].startswith("SIGUSR1; ") and why[1] == "SIGTERM; its job is being requeued", why
    assert case.resumed_at() == [each["step"] for each in case.status["ended_before"]], "nothing was trained twice"
    said = (case.folder / f"train-{job}.out").read_text()
    assert said.count(f"finished at step {STEPS}") == 1, said


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("times", [10])
def test_it_may_be_requeued_at_any_moment_again_and_again(case: Case, whole: Case, times: int) -> None:
    with case.submitted(*NODES):
        case.requeued(case.reaches(5), times, seed=11)
        case.finishes()
    assert_same(case, whole)
    assert case.status["restarts"] == len(case.status["ended_before"]) <= times
    print(case.status["ended_before"], case.resumed_at())
