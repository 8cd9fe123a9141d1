"""The soak in small: a few faults in a minute, always on; all of them once, in some minutes."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.faults import FAULTS, RESTARTING
from tests.soak.place import REPOSITORY
from tests.soak.plan import plan
from tests.soak.sampling import slope


def soak(report: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "tests.soak", "--report", str(report), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    text = report.read_text()
    assert "**NO**" not in text and "| yes | weights, optimizer" in text
    assert not re.search(r"/tmp/|/home/", text), "a path of this machine"
    return text


@pytest.mark.timeout(600)
def test_a_training_under_a_few_faults_ends_as_one_without(tmp_path: Path) -> None:
    text = soak(tmp_path / "soak.md", "--minutes", "0.7", "--faults", "full disk,kill")
    assert text.count("resumed at step") == 1 and "disk full for" in text


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_training_under_all_faults_ends_as_one_without(tmp_path: Path) -> None:
    text = soak(tmp_path / "soak.md", "--minutes", "6", "--seed", "1")
    assert text.count("resumed at step") == len(RESTARTING)


def test_the_same_seed_plans_the_same_faults_and_leaves_the_last_part_alone() -> None:
    steps, planned = plan(60, 0, list(FAULTS), RESTARTING)
    assert (steps, planned) == plan(60, 0, list(FAULTS), RESTARTING) != plan(60, 1, list(FAULTS), RESTARTING)
    assert {each.kind for each in planned} == set(FAULTS) and len(planned) > 25
    at = [each.step for each in planned]
    assert at == sorted(at) and at[0] > 0
    assert (steps - at[-1]) * 0.025 > 15 * 60, "seconds without a fault"


@pytest.mark.parametrize(("growth", "flat"), [(0.0, True), (200.0, False), (-200.0, True)])
def test_growth_is_told_from_noise(growth: float, flat: bool) -> None:
    rng = random.Random(0)
    times = [2.0 * number for number in range(450)]
    line = slope(times, [300 + growth * time / 3600 + rng.gauss(0, 3) for time in times])
    assert line is not None and line.is_flat(1.0) == flat
    assert abs(line.per_hour - growth) < 4 * line.error


def test_a_few_samples_have_no_slope() -> None:
    assert slope([0.0, 2.0], [1.0, 2.0]) is None
