"""Gradients are the same, bit for bit, wherever they lie in DDP's buckets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("sums.py")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each rank saw, by the number of ranks."""
    folder = tmp_path_factory.mktemp("sums")
    done = subprocess.run([sys.executable, PROGRAM, folder], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return {
        size: [json.loads((folder / str(size) / f"{rank}.json").read_text()) for rank in range(size)] for size in (3, 4)
    }


@pytest.mark.parametrize("size", [3, 4])
def test_gradients_do_not_depend_on_buckets(answers: dict[int, list[dict[str, Any]]], size: int) -> None:
    for answer in answers[size]:
        assert answer["the same"] == [True] * 9
        assert answer["digits"] == answers[size][0]["digits"]
        assert answer["close to DDP's"]
        assert not answer["DDP's own are the same"]  # else nobody would need this


@pytest.mark.parametrize("size", [3, 4])
def test_it_is_the_mean_over_the_ranks(answers: dict[int, list[dict[str, Any]]], size: int) -> None:
    factor = sum(range(1, size + 1)) / size
    for answer in answers[size]:
        assert answer["mean"] == pytest.approx([number * factor for number in range(5)])
        assert answer["small"] == pytest.approx((size - 1) / 2)
        assert answer["half"] == pytest.approx([60000.0] * 3, rel=1e-3)
