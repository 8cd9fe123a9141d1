"""One of several processes fails: its job ends in time and names it, leaves no process behind, and goes on exactly."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from expkit.status import read_status
from tests.train.failing_task import FailingTask
from tests.train.forked import Forked
from tests.train.helpers import same
from tests.train.launching import launched, task_option
from train.verify.compare import first_journal_difference

TIMEOUT = 20
KINDS = ("raises", "leaves", "killed", "stopped", "hangs", "main")
STEPS = 15
SMALL = (
    *("optimizer.lr=0.01", "tracker=[]", "plots=[]", "gpu.enabled=false", "trainer.device=cpu"),
    *("trainer.batch_size=8", f"trainer.max_steps={STEPS}", "trainer.max_epochs=null", "trainer.log_interval=4"),
    *("trainer.threads=1", "trainer.processes=2", "checkpoint.save_interval=4"),
    "trainer.eval_interval=100",
)


def slow_disk() -> None:
    """Let the last checkpoint before the failure still be being written when the others hear of that."""
    replace = os.replace

    def slow(source: Any, target: Any) -> None:
        if Path(target).name == "checkpoint_step_8.pt":
            time.sleep(8)
        replace(source, target)

    os.replace = slow


class Failed(NamedTuple):
    run: Path
    code: int
    said: str
    pid: int
    took: float
    """Seconds from the failure to the end of rank 0."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failing")


@pytest.fixture(scope="module")
def failed(folder: Path) -> dict[str, Failed]:
    """A run of two real processes for each way to fail, all at once: they mostly wait."""
    outputs = folder / "outputs"
    traces = {how: folder / f"trace.{how}" for how in KINDS}
    option = task_option(folder, "failing", FailingTask)  # once: a job that has begun reads the file
    jobs = {
        how: Forked(
            outputs,
            *(*option, *SMALL, f"run.id={how}", f"trainer.timeout={TIMEOUT}"),
            *(f"task.how={how}", f"task.trace={traces[how]}"),
            setup=slow_disk,
        )
        for how in KINDS
    }
    ends: dict[str, float] = {}
    deadline = time.monotonic() + 240
    while len(ends) < len(jobs):
        for how, job in jobs.items():
            if how not in ends and not job.read(0.05):
                job.end()
                ends[how] = time.time()
        assert time.monotonic() < deadline, {how: job.said for how, job in jobs.items()}
    answer = {}
    for how, job in jobs.items():
        assert traces[how].exists(), job.said
        pid, began = json.loads(traces[how].read_text())
        assert job.code is not None
        answer[how] = Failed(outputs / how, job.code, job.said, pid, ends[how] - began)
    return answer


def is_there(pid: int) -> bool:
    """Whether a process is there. One that has ended and that nobody has asked for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("raises", r"failed: RuntimeError: the disk of rank 1 is on fire"),
        ("leaves", r"failed: sys.exit\(0\) was called in the run, at \S+failing_task.py, line \d+: "),
        ("killed", r"was killed \(signal 9, SIGKILL\)"),
        ("stopped", r"has said nothing for \d+ s: it was killed, stopped, or its node is gone"),
        ("hangs", r"hangs: it has been computing for step 10 for \d+ s \(it is at \S+failing_task.py:\d+ in _fail\)"),
    ],
)
def test_the_job_ends_in_time_and_names_the_rank(failed: dict[str, Failed], how: str, what: str) -> None:
    job = failed[how]
    named = rf"rank 1 \(of 2, on \S+, pid {job.pid}\)"
    assert job.code == 1, job.said
    assert job.took < 1.5 * TIMEOUT, "the time-out, and what a busy machine takes to end"
    (error,) = [line for line in job.said.splitlines() if line.startswith("error:")]
    assert re.search(f"error: {named} {what}", error), error
    assert error.endswith(f" resume={job.run}"), error
    assert "Traceback" not in job.said
    status = read_status(job.run / "status.json")
    assert (status["state"], status["step"]) == ("failed", 9)
    assert re.search(f"{named} {what}", status["error"]), status
    assert not is_there(job.pid), "no process is left"


def test_others_end_with_rank_0(failed: dict[str, Failed]) -> None:
    job = failed["main"]
    assert job.code == -signal.SIGKILL
    end = time.monotonic() + TIMEOUT
    while is_there(job.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_there(job.pid)


def test_the_log_of_a_rank_has_its_traceback(failed: dict[str, Failed]) -> None:
    job = failed["raises"]
    text = (job.run / "logs" / "rank_1.log").read_text()
    assert "Traceback" in text and "in _fail" in text and "RuntimeError: the disk of rank 1 is on fire" in text
    assert f"(see {job.run / 'logs' / 'rank_1.log'})" in job.said


def final(run: Path) -> dict[str, Any]:
    """Return the last checkpoint, without what differs by nature."""
    state = torch.load(run / "checkpoints" / f"checkpoint_step_{STEPS}.pt", weights_only=True)
    for key in ("config", "time", "metrics"):
        del state[key]
    state["sampler_state"]["elapsed"] = None
    return dict(state)


def test_resumed_it_is_the_run_that_did_not_fail(failed: dict[str, Failed], folder: Path) -> None:
    whole, outputs = folder / "outputs" / "whole", folder / "outputs"
    ranks = launched(outputs, *task_option(folder, "failing", FailingTask), *SMALL, "run.id=whole")
    assert [each.code for each in ranks] == [0, 0], ranks[0].said
    assert len(final(whole)["ranks"]) == 1
    for how, job in failed.items():
        ranks = launched(outputs, "--config-dir", str(folder / "conf"), f"resume={job.run}")
        assert [each.code for each in ranks] == [0, 0], ranks[0].said
        saved = 4 if how == "main" else 8  # what rank 0 was writing is lost with it
        assert f"resumed at step {saved}" in ranks[0].said, ranks[0].said
        assert same(final(whole), final(job.run)), how
        logs = [run / "logs" / "metrics.jsonl" for run in (whole, job.run)]
        assert first_journal_difference(*logs)[0] is None, how
