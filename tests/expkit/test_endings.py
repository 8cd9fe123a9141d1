"""The endings of a run before it was gone on with, as status.json lists them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from expkit.ending import Ending
from expkit.endings import endings
from expkit.status import StatusFile, read_status

BEFORE = {"step": 30, "heartbeat_time": 1.7e9, "slurm": {"job_id": "7"}}


def test_each_says_step_time_state_why_and_job() -> None:
    (said,) = endings(BEFORE, Ending("preempted", "SIGTERM", step=31))
    time = datetime.fromtimestamp(1.7e9).astimezone().isoformat(timespec="seconds")
    assert said == {"step": 31, "time": time, "state": "preempted", "why": "SIGTERM", "slurm": {"job_id": "7"}}


def test_the_newest_is_the_last() -> None:
    first = endings(BEFORE, Ending("preempted", "SIGTERM", step=31))
    both = endings({**BEFORE, "ended_before": first}, Ending("killed", "SIGKILL", False, 44))
    assert [each["step"] for each in both] == [31, 44]


@pytest.mark.parametrize("requeued", [True, False])
def test_of_a_start_that_was_killed_it_says_whether_slurm_started_the_job_again(
    requeued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if requeued:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    (said,) = endings(BEFORE, Ending("killed", "SIGKILL", False, 44))
    assert said["why"] == ("SIGKILL; SLURM has started its job again" if requeued else "SIGKILL")


def test_a_rewind_is_none_of_them_but_is_listed_and_a_missing_status_is_no_obstacle() -> None:
    assert endings(BEFORE, None, "to step 20")[0] | {"time": None, "slurm": {}} == {
        **{"step": 30, "time": None, "state": "rewound", "why": "to step 20", "slurm": {}}
    }
    (said,) = endings({"ended_before": "damaged"}, None)
    assert (said["state"], said["step"], said["time"], said["slurm"]) == ("unknown", None, None, {})


def test_a_status_keeps_the_last_hundred_and_counts_all(tmp_path: Path) -> None:
    status = StatusFile(tmp_path / "status.json", dict)
    status.start(restarts=150, ended_before=[{"step": step} for step in range(150)])
    status.add_reason(scheduler="its job is being requeued", nothing="")
    status.stop("preempted")
    content = read_status(tmp_path / "status.json")
    assert [each["step"] for each in content["ended_before"]] == list(range(50, 150))
    assert (content["restarts"], content["scheduler"]) == (150, "its job is being requeued")
    assert "nothing" not in content
