"""Ranks 1 to N - 1 that rank 0 has started: they follow it from job to job, and end with it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from expkit.dist import Control

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    """What rank 0 of the program saw."""
    done = subprocess.run([sys.executable, HERE / "jobs.py"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_ranks_join_talk_leave_and_join_again(answer: dict[str, Any]) -> None:
    assert len(answer["jobs"]) == 2
    for job in answer["jobs"]:
        assert job["sum"] == [3.0, 3.0]
        assert job["broadcast"] == {"from": 0}
        assert job["gather"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert job["gather_all"] == [[0, 0, 0, True], [1, 1, 0, False], [2, 2, 0, False]]
        assert job["backend"] == "gloo"
        assert [actions for actions in job["actions"] if actions] == [Control.SAVE]


def test_the_processors_are_shared_out(answer: dict[str, Any]) -> None:
    assert all(threads and int(threads) >= 1 for threads in answer["jobs"][0]["threads"][1:])


def test_followers_end_with_0_after_rank_0_has_and_with_1_after_its_mistake(answer: dict[str, Any]) -> None:
    assert answer["codes"] == {"1": 0, "2": 0}
    assert answer["codes after a mistake"] == {"1": 1}


def test_a_follower_that_does_not_even_begin_is_named_at_once(answer: dict[str, Any]) -> None:
    assert answer["failed"] == "rank 2 (of 3) ended with exit code 7 before it had begun"
    assert answer["codes after a failure"] == {"1": -signal.SIGTERM, "2": 7}


def test_a_follower_that_is_killed_is_named_with_its_signal(answer: dict[str, Any]) -> None:
    assert re.fullmatch(r"rank 1 \(of 3, on \S+, pid \d+\) was killed \(signal 9, SIGKILL\)", answer["blamed"])
    assert answer["codes after a death"] == {"1": -signal.SIGKILL, "2": 1}


def test_followers_that_ignore_everything_are_killed(answer: dict[str, Any]) -> None:
    assert answer["codes of the stubborn"] == {"1": -signal.SIGKILL}


def test_followers_do_not_outlive_a_rank_0_that_is_killed(tmp_path: Path) -> None:
    # One that waits for a job, and one that is stopped: both are gone.
    program = """
import os, subprocess, sys, time
from expkit.dist.children import Children
follower = (
    "import os; from expkit.dist import Place; from expkit.dist.meeting import expect; place = Place.current();"
    "from expkit.dist.children import die_with_parent; die_with_parent(); rank = place.rank;"
    "open(f'{rank}.tmp', 'w').write(str(os.getpid())); os.rename(f'{rank}.tmp', f'{rank}.pid');"
    "rank == 2 and os.kill(os.getpid(), 19); expect(place, 60)"
)
with Children(3, [sys.executable, "-c", follower]) as children:
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    pids = [tmp_path / "1.pid", tmp_path / "2.pid"]
    wait_until(lambda: all(path.exists() for path in pids) or process.poll() is not None)
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_alive(int(path.read_text())) for path in pids))


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process is there, and not only its exit code, which nobody may ever ask for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
