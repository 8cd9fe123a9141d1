"""The folder of a sweep: what is written, and what is made of a folder that somebody has broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expkit.errors import UserError
from expkit.sweep.folder import JobFile, Submission, SweepDir, varying
from tests.expkit.sweep.conftest import Made


def test_what_a_job_has_said_comes_back(tmp_path: Path) -> None:
    folder = SweepDir(tmp_path / "sweep")
    assert folder.begin({"jobs": 1})
    job = JobFile(
        3, ("a.b=1",), "done", "7_3", "x", "../run", 0.25, None, "host", 42, started=1.5, ended=2.5
    )  # fmt: skip
    folder.write(job)
    assert folder.job(3) == job
    assert folder.numbers() == [3]


def test_of_several_that_begin_a_sweep_the_first_wins(tmp_path: Path) -> None:
    folder = SweepDir(tmp_path)
    assert folder.begin({"jobs": 1})
    assert not folder.begin({"jobs": 2})
    assert folder.read() == {"jobs": 1}


def test_secrets_are_not_written(tmp_path: Path) -> None:
    folder = SweepDir(tmp_path)
    folder.begin({})
    folder.write(JobFile(0, ("tracker.wandb.api_key=hunter22",)))
    assert "hunter22" not in folder.file(0).read_text()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"overrides": 3, "state": 7, "value": "x", "pid": "1", "started": true, "run": []}'],
)
def test_damaged_files_are_passed_over_or_read_without_what_is_wrong(made: Made, content: str) -> None:
    made.job(0)
    made.folder.file(1).write_text(content)
    made.folder.submissions.write_text('x\n{"kind": "slurm"}\n[]\n{"kind":"slurm","time":1,"jobs":{"0":"7_0"}}\n')
    job = made.folder.job(1)
    assert job is None or job == JobFile(1)
    assert [each.jobs for each in made.folder.submitted()] == [{0: "7_0"}]


def test_strange_names_are_no_jobs(made: Made) -> None:
    made.job(0)
    for name in ("01.json", "-1.json", "1.txt", ".0.json.7.0.tmp", "a.json", "².json"):
        (made.folder.jobs / name).write_text("{}")
    assert made.folder.numbers() == [0]


def test_runs_are_found_where_outputs_has_been_moved_to(made: Made, tmp_path: Path) -> None:
    job = made.job(0, "running", run=made.run(0))
    (tmp_path / "outputs").rename(tmp_path / "moved")
    found = SweepDir(Path("moved", "multirun", "20260101_120000")).run_of(job)
    assert found is not None and (found / "config.json").exists() and not found.is_absolute()


def test_submissions_keep_their_order(made: Made) -> None:
    made.submitted(0, 1)
    made.folder.note(Submission("cancelled", {1: None}))
    assert [(each.kind, [*each.jobs]) for each in made.folder.submitted()] == [("slurm", [0, 1]), ("cancelled", [1])]
    assert json.loads(made.folder.submissions.read_text().splitlines()[0])["jobs"] == {"0": "7_0", "1": "7_1"}


def test_what_varies_is_what_not_all_have_alike() -> None:
    jobs = [("a=1", "b=2", "+c=3"), ("a=1", "b=3"), ("a=1", "b=2", "sweep.wait=false")]
    assert varying(jobs) == {"b", "+c"}
    assert varying([]) == set() == varying(jobs[:1])


def test_no_sweep_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no sweep's folder: it has no sweep\.json"):
        SweepDir(tmp_path).read()
