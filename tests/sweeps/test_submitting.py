"""Submitting jobs to SLURM, and waiting for them: what is refused, interrupted, or heard of late."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from expkit.cli.sweep import find_sweep
from expkit.sweep.folder import JobFile, SweepDir
from expkit.sweep.jobs import Job, jobs_of
from sweeps import slurm
from sweeps.progress import Progress
from tests.conftest import Train
from tests.sweeps.conftest import Executor


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    made = SweepDir(tmp_path / "outputs" / "multirun" / "mine")
    made.begin({})
    for number in range(5):
        made.write(JobFile(number))
    return made


def test_where_slurm_takes_some_arrays_and_refuses_one_it_is_said_what_is_left(
    train: Train, executor: Executor, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.at_once = False
    monkeypatch.setattr(slurm, "slurm_said", lambda *_: (0, "MaxArraySize            = 2\n", ""))
    submit = executor.submit_array

    def refuse(calls: Sequence[Callable[[], Any]]) -> list[SimpleNamespace]:
        if len(executor.jobs) == 4:
            raise RuntimeError("bypassed\nsbatch: error: QOSMaxSubmitJobPerUserLimit\n")
        return submit(calls)

    monkeypatch.setattr(executor, "submit_array", refuse)
    done = train("debug=smoke", "-m", "hydra/launcher=slurm", "trainer.seed=range(5)", "sweep.wait=false", check=False)
    assert done.returncode == 1
    assert "QOSMaxSubmitJobPerUserLimit; 4 of 5 jobs were submitted before; the others: expkit sweep " in done.stderr
    found = find_sweep(None, outputs)
    assert [job.state for job in jobs_of(found)] == ["queued"] * 4 + ["cancelled"]
    assert stat.S_IMODE((found.root / ".submitit").stat().st_mode) == 0o700  # secrets may be pickled there


def test_ctrl_c_while_jobs_are_submitted_loses_none(
    executor: Executor, folder: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(calls: Sequence[Callable[[], Any]]) -> list[SimpleNamespace]:
        os.kill(os.getpid(), signal.SIGINT)
        return [SimpleNamespace(job_id=f"7_{place}") for place in range(len(calls))]

    monkeypatch.setattr(executor, "submit_array", interrupted)
    first = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background it is ignored
    with pytest.raises(KeyboardInterrupt, match=r"interrupted: 2 of 2 jobs are submitted; expkit sweep .* --cancel"):
        slurm.submit(folder, {}, {0: print, 1: print})
    assert [each.jobs for each in folder.submitted()] == [{0: "7_0", 1: "7_1"}]
    assert signal.signal(signal.SIGINT, first) is signal.default_int_handler  # it is what it was before


def test_what_slurm_has_forgotten_gets_time_to_say_its_last_word(
    folder: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(slurm, "time", SimpleNamespace(monotonic=lambda: now[0]))
    gone: dict[int, float] = {}
    numbers = {0, 1, 2}
    with Progress(folder, numbers) as progress:

        def ask(*ended: int) -> set[int]:
            lost = [Job(JobFile(number, state="running"), "failed", why="SLURM says COMPLETED") for number in ended]
            monkeypatch.setattr(slurm, "jobs_of", lambda _: lost)
            slurm._ask(folder, numbers, progress, gone)
            return set(progress.over)

        assert ask(0, 1, 2) == set()
        now[0] = 30.0
        assert ask(0, 1) == set()  # 2 is back in the queue
        folder.write(JobFile(1, state="done", value=1.0))
        now[0] = 60.0
        assert ask(0, 1, 2) == {0, 1}
    assert [(job.state, job.error) for number in range(3) if (job := folder.job(number))] == [
        ("failed", "SLURM says COMPLETED"),
        ("done", None),
        ("queued", None),
    ]
