"""SIGKILL at random instants and at random file operations, again and again: a run ends as if nothing had happened."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.injector import KILL, FaultInjector
from tests.faults.runs import Whole, assert_ends_like, assert_one_line, train

_SHARDS = 16


def kill_and_resume(run: Path, whole: Whole, rng: random.Random, kills: int) -> int:
    """Train `run` to its end, killed up to `kills` times on the way; return how often it was."""
    said = run.with_name("said")
    killed, beside = 0, rng.random() < 0.5
    while True:
        if not (run / "config.json").exists():  # killed before there was a run
            shutil.rmtree(run, ignore_errors=True)
        resume = run if run.exists() else None
        if killed == kills:
            code = train(run, resume=resume, said=said, beside=beside)
        elif rng.random() < 0.5:
            code = train(run, resume=resume, said=said, beside=beside, kill_after=rng.uniform(0, 1.1 * whole.seconds))
        else:
            at = rng.randrange(len(whole.operations))
            code = train(run, resume=resume, said=said, beside=beside, faults=FaultInjector(run, at, KILL))
        if code != -signal.SIGKILL:
            break
        killed += 1
    assert code == 0, said.read_text()
    assert_one_line(said, error=False)
    return killed


def kill_many(folder: Path, whole: Whole, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    done = 0
    while done < kills:
        run = folder / f"run_{done}"
        now = kill_and_resume(run, whole, rng, min(4, kills - done))
        assert_ends_like(whole.path, run)
        assert not list(run.rglob("*.corrupt"))
        done += now
        if now:
            shutil.rmtree(run)


def test_killed_again_and_again_a_run_ends_as_if_nothing_had_happened(tmp_path: Path, whole: Whole) -> None:
    kill_many(tmp_path, whole, kills=20, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(_SHARDS))
def test_killed_a_thousand_times(tmp_path: Path, whole: Whole, shard: int) -> None:
    kill_many(tmp_path, whole, kills=63, seed=1 + shard)
