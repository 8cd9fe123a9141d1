"""Processes that somebody else has started, each with the same command line: torchrun, or whatever sets RANK."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from expkit.dist import Place
from expkit.dist.group import join
from expkit.dist.meeting import expect, meet
from expkit.errors import RankFailed
from tests.conftest import train_command, train_environment
from tests.slurm.jobs import Case, wait_for
from tests.train.forked import Forked
from tests.train.launching import free_port, launched

SMALL = ("task=classify", "tracker=[]", "plots=[]", "trainer.max_steps=3", "trainer.device=cpu", "gpu.enabled=false")


def test_help_is_printed_once(tmp_path: Path) -> None:
    first, other = launched(tmp_path / "outputs", "--help")
    assert (first.code, other.code) == (0, 0)
    assert "trainer" in first.said
    assert other.said == ""


def test_the_jobs_of_a_sweep_follow_each_other_though_one_fails(tmp_path: Path) -> None:
    lr = "optimizer.lr=0.001,nope,0.002"
    first, other = launched(tmp_path / "outputs", "-m", *SMALL, f"hydra.sweep.dir={tmp_path / 'sweep'}", lr)
    assert (first.code, other.code) == (1, 1), first.said
    assert "error: job 1: optimizer.lr=nope" in first.said
    assert "2 done, 1 failed" in first.said
    assert other.said == ""
    jobs = [orjson.loads((tmp_path / "sweep" / "jobs" / f"{number}.json").read_bytes()) for number in range(3)]
    assert [job["state"] for job in jobs] == ["done", "failed", "done"]
    assert len([*tmp_path.glob("outputs/*/config.json")]) == 2


def test_variables_that_contradict_each_other_are_one_line(tmp_path: Path) -> None:
    process = Forked(tmp_path / "outputs", setup=lambda: os.environ.update(WORLD_SIZE="2"))
    assert process.end() == 1
    assert process.said.startswith("error: WORLD_SIZE=2 without RANK: start this with torchrun or srun, or unset")
    assert process.said.count("\n") == 1


def test_a_rank_that_is_stopped_before_there_is_a_job_is_named() -> None:
    place = Place(0, 2, 0, 2, 0, "here", "torchrun", "127.0.0.1", free_port())
    other = Place(1, 2, 1, 2, 0, "here", "torchrun", "127.0.0.1", place.port)
    meet(place, 5)
    assert expect(other, 5, lambda: signal.SIGTERM) == 128 + signal.SIGTERM
    with pytest.raises(RankFailed, match=r"^rank 1 \(of 2\) was killed \(signal 15, SIGTERM\) before it had begun$"):
        join(place, 5, patience=30)


def test_torchrun_passes_signals_on_when_it_is_told_to(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    typed = [*SMALL[:3], "trainer.max_epochs=1000", "trainer.device=cpu", "gpu.enabled=false", "run.id=one"]
    options = [
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2",
        "--shutdown-timeout=60",
        "--nproc-per-node=2",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", *options, *train_command(outputs, *typed)[1:]]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, env=train_environment(tmp_path), cwd=tmp_path, stdout=said, stderr=said)
    try:
        status, end = outputs / "one" / "status.json", time.monotonic() + 120
        while not (outputs / "one" / "logs" / "metrics.jsonl").exists() or b'"running"' not in status.read_bytes():
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "said").read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGUSR1)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    found = orjson.loads(status.read_bytes())
    assert (found["state"], found["signal"]) == ("preempted", "SIGUSR1"), (tmp_path / "said").read_text()
    assert [*outputs.glob("one/checkpoints/checkpoint_step_*")], "it has saved"


def test_where_rank_0_itself_cannot_leave_the_job_of_a_sweep_has_failed_nevertheless(tmp_path: Path) -> None:
    case = Case(tmp_path)
    process = case.typed("-m", "trainer.processes=2", "trainer.timeout=8", "trainer.seed=0")
    wait_for(lambda: case.step >= 4, lambda: process.said)
    case.go.with_name("hang").touch()
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    assert process.end() == 1
    job = orjson.loads(next(tmp_path.glob("outputs/multirun/*/jobs/0.json")).read_bytes())
    assert job["state"] == case.status["state"] == "failed"
    assert re.search(r"^rank 1 \(of 2, on .*, pid \d+\) was killed \(signal 9, SIGKILL\)", job["error"])
