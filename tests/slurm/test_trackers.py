"""Trackers of a job that SLURM has requeued: one run in each, and what is offline can be uploaded in order."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from expkit.cli.main import main
from tests.expkit.trackers.conftest import WandbFile
from tests.expkit.trackers.wandb_server import wandb_server
from tests.slurm.jobs import STEPS, Case, ask, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

KEY = "0123456789abcdef" * 2 + "01234567"


def steps_of(file: Path) -> list[int]:
    """Return the steps that an offline run of W&B's holds."""
    return list(WandbFile(file).rows)


def test_a_requeued_run_is_one_run_in_every_tracker(
    case: Case, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with case.submitted("tracker=wandb,trackio", "tracker.wandb.system_metrics=false") as submitter:
        ask("scancel", "--signal=USR2", case.reaches(10))
        # scontrol requeue sends SIGTERM to all processes, W&B's too, which leaves at once: there may be one part more.
        ask("scontrol", "requeue", case.reaches(30, restarts=1))
        wait_for(lambda: case.status.get("restarts") == 2, case.said)
        case.finishes()
        assert submitter.end(120) == 0, submitter.said  # trackers are finished after status.json says so
    assert case.run is not None
    files = sorted(case.run.glob("wandb/offline-run-*/*.wandb"))
    ids = [begun["run_id"] for file in files for begun in WandbFile(file).of_type("run")]
    assert ids in ([case.run.name] * 3, [case.run.name] * 4), "an offline directory for each start, all of one W&B run"
    steps = [step for file in files for step in steps_of(file)]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS, "each step once, in order"
    (database,) = (case.folder / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_id, step FROM metrics ORDER BY id").fetchall()
    assert {run for run, _ in rows} == {case.run.name}
    assert [step for _, step in rows] == sorted({step for _, step in rows}), "each step once"

    monkeypatch.chdir(case.folder)
    monkeypatch.setenv("HOME", str(case.folder))
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert main(["sync"]) == 0, capfd.readouterr()
        sent = [row["_step"] for row in server.rows]
    assert sent == steps
    assert capfd.readouterr().out.startswith(f"{case.run.name}: ")
