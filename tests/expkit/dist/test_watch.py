"""A rank that is killed, stopped, hangs or raises: every other one is told which, and ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from expkit.dist.beat import BROKEN, LATE, LEFT, Beat, Member
from expkit.dist.verdict import ended, is_consequence, judge

PROGRAM = Path(__file__).with_name("faults.py")
TRACE = re.compile(r" \(it is at .*faults\.py:\d+ in train\)")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By fault: the exit codes of four ranks, and what each was told."""
    folder = tmp_path_factory.mktemp("faults")
    done = subprocess.run([sys.executable, PROGRAM, folder], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def told(job: dict[str, Any], *ranks: int) -> str:
    """Return what these ranks were told, which is the same for all of them."""
    found = {job["answers"][str(rank)]["blamed"] for rank in ranks}
    assert len(found) == 1
    (text,) = found
    assert isinstance(text, str)
    return text


def codes(job: dict[str, Any]) -> list[int]:
    return [job["codes"][str(rank)] for rank in range(4)]


@pytest.mark.parametrize(("fault", "rank", "code"), [("killed", 2, -signal.SIGKILL), ("silent_end", 1, 3)])
def test_a_rank_that_is_gone_is_named(jobs: dict[str, Any], fault: str, rank: int, code: int) -> None:
    others = [each for each in range(4) if each != rank]
    text = told(jobs[fault], *others)
    assert re.match(rf"rank {rank} \(of 4, on node{rank // 2}, pid \d+\) has said nothing for \d+ s: it was killed", text)
    assert [code if each == rank else 0 for each in range(4)] == codes(jobs[fault])


def test_a_rank_that_is_stopped_is_named(jobs: dict[str, Any]) -> None:
    assert re.match(r"rank 2 \(of 4, on node1, pid \d+\) has said nothing for \d+ s", told(jobs["stopped"], 0, 1, 3))


def test_a_rank_that_raises_is_named_with_its_error(jobs: dict[str, Any]) -> None:
    job = jobs["raises"]
    assert re.fullmatch(r"rank 1 \(of 4, on node0, pid \d+\) failed: ValueError: boom", told(job, 0, 2, 3))
    assert job["answers"]["1"]["error"] == "boom"
    assert job["answers"]["1"]["blamed"] is None  # its own error is what it says


@pytest.mark.parametrize("fault", ["loading", "computing"])
def test_a_rank_that_hangs_is_named_with_where_it_is_and_ended(jobs: dict[str, Any], fault: str) -> None:
    job = jobs[fault]
    text = told(job, 0, 1, 3)
    phase = "loading data" if fault == "loading" else "computing"
    assert re.match(rf"rank 2 \(of 4, on node1, pid \d+\) hangs: it has been {phase} for step 3 for \d+ s", text)
    assert TRACE.search(text) and text.endswith(", and the others wait for it")
    assert job["answers"]["2"] == {"ended": text}  # its last words
    assert codes(job) == [0, 0, 1, 0]


def test_rank_0_with_the_store_is_named(jobs: dict[str, Any]) -> None:
    assert re.fullmatch(r"rank 0 \(of 4, on node0, pid \d+\) is gone", told(jobs["main_killed"], 1, 2, 3))
    for rank in (1, 2, 3):
        text = jobs["main_stopped"]["answers"][str(rank)]["blamed"]
        assert re.match(r"rank 0 \(of 4, on node0, pid \d+\) has said nothing for \d+ s", text)


def test_ranks_that_would_never_notice_are_ended(jobs: dict[str, Any]) -> None:
    job = jobs["unnoticed"]
    assert codes(job) == [1, 1, -signal.SIGKILL, 1]
    for rank in (0, 1, 3):
        assert job["answers"][str(rank)]["ended"].startswith("rank 2 (of 4, on node1, pid ")


@pytest.mark.parametrize("fault", ["late", "suspended"])
def test_a_rank_that_is_late_and_a_job_that_was_suspended_are_no_fault(jobs: dict[str, Any], fault: str) -> None:
    assert jobs[fault] == {"codes": dict.fromkeys("0123", 0), "answers": {rank: {} for rank in "0123"}}


MEMBERS = [Member(rank, 3, "vm", 40 + rank) for rank in range(3)]


def verdict(*beats: Beat, silent: tuple[float, ...] = (0, 0, 0), trouble: float | None = None) -> str | None:
    return judge(MEMBERS, beats, silent, timeout=10.0, patience=2.0, trouble=trouble)


def at(step: int, phase: str, age: float, state: str = "runs", where: str = "") -> Beat:
    return Beat(1, state, step, phase, age, where)


def test_nobody_is_blamed_while_all_compute_for_long() -> None:
    assert verdict(*[at(7, "evaluating", 500.0)] * 3) is None


def test_a_rank_that_is_behind_has_the_time_out_to_come() -> None:
    ahead = at(7, "computing", 9.0)
    assert verdict(ahead, ahead, at(7, "loading data", 60.0)) is None
    ahead = at(7, "computing", 11.0)
    assert verdict(ahead, ahead, at(7, "loading data", 60.0)) == (
        "rank 2 (of 3, on vm, pid 42) hangs: it has been loading data for step 7 for 60 s, and the others wait for it"
    )


def test_ranks_that_hang_together_are_all_named() -> None:
    slow = at(7, "loading data", 12.0)
    text = verdict(at(7, "computing", 11.0), slow, slow)
    assert text is not None and text.startswith("rank 1 ") and text.endswith("; so does rank 2")


def test_silence_counts_sooner_once_somebody_has_lost_a_connection() -> None:
    beats = [at(7, "computing", 3.0, BROKEN), at(7, "computing", 3.0), at(7, "computing", 3.0)]
    assert verdict(*beats, silent=(0, 3, 0)) is None
    text = verdict(*beats, silent=(0, 3, 0), trouble=3.0)
    assert text == (
        "rank 1 (of 3, on vm, pid 41) has said nothing for 3 s: it was killed, stopped, or its node is gone; last seen "
        "at step 7"
    )


def test_who_has_left_or_was_left_alone_is_not_blamed() -> None:
    beats = [at(7, "computing", 0.0), at(7, "computing", 3.0, BROKEN), at(7, "finishing", 0.0, LEFT)]
    assert verdict(*beats, silent=(0, 100, 100), trouble=100.0) is None


def test_ranks_that_wait_for_different_things_are_all_said() -> None:
    late = [at(7, phase, 11.0, LATE) for phase in ("saving", "computing", "computing")]
    text = verdict(*late, trouble=3.0)
    assert text is not None and text.startswith("the ranks waited for each other in vain")


@pytest.mark.parametrize(
    ("error", "consequence"),
    [
        (RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError("[unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation to complete"), True),
        (RuntimeError("Read error [127.0.0.1]:1: Connection reset by peer"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (ConnectionResetError("Connection reset by peer"), False),  # a tracker's
        (ValueError("boom"), False),
    ],
)
def test_what_gloo_says_when_another_is_gone_is_a_consequence(error: Exception, consequence: bool) -> None:
    assert is_consequence(error) is consequence


def test_how_a_process_ended_is_said_in_words() -> None:
    assert ended(MEMBERS[1], -9) == "rank 1 (of 3, on vm, pid 41) was killed (signal 9, SIGKILL)"
    assert ended(MEMBERS[1], 3) == "rank 1 (of 3, on vm, pid 41) ended with exit code 3"
