"""A sweep on a real SLURM: twelve jobs, of which one fails and one is requeued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expkit.cli.main import main
from expkit.wandb_data import offline_runs
from expkit.wandb_data.records import first_run
from tests.expkit.trackers.wandb_server import wandb_server
from tests.slurm.conftest import Cluster
from tests.slurm.jobs import STEPS, Case, ask, assert_same, wait_for

pytestmark = pytest.mark.slurm


class Job(Case):
    """One job of a sweep that was submitted from another folder."""

    def __init__(self, case: Case, run: Path) -> None:
        self.folder, self.go, self._run = case.folder, case.go, run

    @property
    def run(self) -> Path:
        return self._run


@pytest.mark.timeout(900)
def test_twelve_jobs_over_two_trackers_of_which_one_fails_and_one_is_requeued(
    slurm: Cluster, case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    trackers = ("tracker=[wandb,trackio]", "tracker.wandb.system_metrics=false")
    with case.submitted(
        "trainer.seed=range(12)", "+task.failing_seed=7", "+task.seed=${trainer.seed}", *trackers
    ) as it:
        wait_for(lambda: states(case, capsys).get(2) == "running", case.said)
        requeued = Job(case, folder(case, capsys, 2))
        job = requeued.reaches(10)
        ask("scancel", "--signal=USR2", job)  # SIGTERM ends W&B's process, too: there might be a third directory
        requeued.reaches(14, restarts=1)
        case.go.touch()
        assert it.end(600) == 1, "one has failed"
    assert "the disk with the data has gone away" in it.said
    assert "11 done, 1 failed" in it.said
    told = table(case, capsys)
    assert [each["state"] for each in told["jobs"]] == ["failed" if number == 7 else "done" for number in range(12)]
    assert "the disk with the data has gone away" in told["jobs"][7]["why"]

    alone = Case(tmp_path / "alone")
    alone.go.touch()
    assert alone.typed("trainer.seed=2", "+task.failing_seed=7", "+task.seed=2").end(240) == 0
    assert requeued.step == STEPS
    assert_same(requeued, alone)

    runs = offline_runs(case.folder / "outputs")
    assert len({run.id for run in runs}) == len(runs) == 12
    assert {run.id: len(run.parts) for run in runs if len(run.parts) > 1} == {requeued.run.name: 2}
    groups = {first_run(part).run_group for run in runs for part in run.parts}
    assert groups == {next((case.folder / "outputs" / "multirun").iterdir()).name}
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2 + "01234567")
        assert main(["sync", str(requeued.run)]) == 0
        steps = [row["_step"] for row in server.rows]
    assert steps == sorted(set(steps))
    assert steps[-1] >= STEPS


def table(case: Case, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    (found,) = (case.folder / "outputs" / "multirun").iterdir()
    assert main(["sweep", str(found), "--json"]) in (0, 1)  # 1: a job has failed
    return json.loads(capsys.readouterr().out)


def states(case: Case, capsys: pytest.CaptureFixture[str]) -> dict[int, str]:
    if not list(case.folder.glob("outputs/multirun/*/sweep.json")):
        return {}
    return {each["number"]: each["state"] for each in table(case, capsys)["jobs"]}


def folder(case: Case, capsys: pytest.CaptureFixture[str], number: int) -> Path:
    return Path(table(case, capsys)["jobs"][number]["run"])
