"""`expkit sweep`: the table, what to type next, cancel and resubmit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from expkit.cli import sweep
from expkit.cli.main import main
from tests.expkit.sweep.conftest import SUFFIX, Made, made, slurm

__all__ = ["made", "slurm"]  # fixtures

Slurm = Callable[..., Path]


@pytest.fixture
def mixed(made: Made, slurm: Slurm) -> Made:
    """One job done, one running, one failed, one queued."""
    done = {"state": "finished", "step": 100, "metrics": {"val_loss": 0.5}}
    made.job(0, "done", run=made.run(0, **done), value=0.5)
    made.job(1, "running", run=made.run(1, step=40, metrics={"val_loss": 0.25}))
    made.job(2, "failed", error="CUDA out of memory\x1b[31m")
    made.job(3)
    made.submitted(0, 1, 2, 3)
    slurm("7_1|RUNNING", "7_3|PENDING")
    return made


def test_the_table_says_how_every_job_stands(mixed: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep"]) == 1  # one has failed
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith("outputs/multirun/20260101_120000: 4 jobs: 1 queued, 1 running, 1 done, 1 failed\n")
    assert lines[1] == ["job", "state", "lr", "step", "val_loss", "run", "why"]
    assert lines[3][:5] == ["0", "done", "1", "100/100", "0.5"]
    assert lines[4][:5] == ["1", "running", "0.1", "40/100", "0.25"]
    assert lines[5][:3] == ["2", "failed", "0.01"] and "CUDA out of memory?[31m" in text
    assert lines[6][:3] == ["3", "queued", "0.001"]
    assert f"best: job 1 (optimizer.lr=0.1), val_loss 0.25, outputs/denoise_{SUFFIX}-1" in text
    assert "run them again: expkit sweep outputs/multirun/20260101_120000 --resubmit failed" in text
    assert "end it: expkit sweep outputs/multirun/20260101_120000 --cancel" in text
    assert "compare: expkit compare outputs/" in text
    assert "\x1b" not in text


def test_a_narrow_terminal_sees_why_rather_than_names_of_runs(
    mixed: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_width", lambda: 80)
    main(["sweep"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["job", "state", "lr", "step", "val_loss", "why"]
    assert lines[5].endswith("CUDA out of memory?[31m")
    assert all(len(line) <= 80 for line in lines if "expkit " not in line)
    assert any(line.endswith("--resubmit failed") for line in lines), "what is to be typed is never cut"


def test_programs_get_all_of_it(mixed: Made, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["counts"] == {"queued": 1, "running": 1, "done": 1, "failed": 1}
    assert said["best"] == 1 and said["metric"] == "val_loss"
    assert [job["job_id"] for job in said["jobs"]] == ["7_0", "7_1", "7_2", "7_3"]


@pytest.mark.parametrize(
    "name", ["outputs/multirun/20260101_120000", "20260101_120000", f"outputs/denoise_{SUFFIX}-1", "outputs"]
)
def test_a_sweep_is_found_by_its_folder_its_name_and_its_runs(
    mixed: Made, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sweep", name])
    assert capsys.readouterr().out.startswith("outputs/multirun/20260101_120000: 4 jobs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere is neither a sweep's folder nor a run"),
        (["outputs/multirun/20260101_120000/jobs"], "is no sweep's folder"),
        (["--resubmit", "faild"], "faild: name jobs by numbers (3,7), or as queued, running"),
        (["--resubmit", "0"], "job 0 is done: name others"),
        (["--resubmit", "1"], "job 1 is queued or running: cancel it first"),
        (["a.b=1"], "a.b=1: settings go with --resubmit"),
        (["--cancel", "--resubmit", "failed"], "give one"),
    ],
)
def test_mistakes_are_one_line(
    mixed: Made, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_without_a_sweep_it_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep"]) == 1
    assert "start one: python -m train -m ..." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "ids"), [(["--cancel"], "7_1 7_3"), (["--cancel", "3"], "7_3"), (["--cancel", "outputs"], "7_1 7_3")]
)
def test_cancel_asks_slurm_and_notes_it(
    mixed: Made, tmp_path: Path, typed: list[str], ids: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *typed]) == 0
    assert (tmp_path / "cancelled").read_text().strip() == ids
    assert capsys.readouterr().out.startswith("cancelled ")
    assert mixed.folder.submitted()[-1].kind == "cancelled"


def test_cancel_does_not_promise_what_it_cannot_do(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.job(0)
    assert main(["sweep", "--cancel"]) == 1
    assert "job 0 is being submitted: try again in a moment" in capsys.readouterr().err
    assert made.folder.submitted() == []


def test_cancel_where_nothing_is_left(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.job(0, "done")
    assert main(["sweep", "--cancel"]) == 0
    assert capsys.readouterr().out == "nothing to cancel: no such job is queued or running\n"


def test_a_number_in_a_file_that_is_another_process_by_now_is_left_alone(made: Made) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        made.job(0, "running", pid=other.pid, host=sweep.platform.node())
        assert main(["sweep", "--cancel"]) == 0
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.1)
    finally:
        other.kill()
        other.wait()


def test_resubmit_starts_a_process_that_may_import_hydra(mixed: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    done = subprocess.CompletedProcess([], 0)
    run = SimpleNamespace(run=lambda command, **_: commands.append(command) or done)
    monkeypatch.setattr(sweep, "subprocess", run)
    assert main(["sweep", "--resubmit", "failed", "optimizer.lr=0.5"]) == 0
    assert commands[0][1:] == [
        *("-m", "sweeps.resubmit", "outputs/multirun/20260101_120000", "2", "optimizer.lr=0.5", "sweep.wait=false")
    ]
