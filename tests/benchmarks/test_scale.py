"""What is made of a long run: costs within windows, and the slope of its memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.memory import malloc_bytes, slope
from benchmarks.scale import Result, Run, goals, train


def test_costs_are_those_between_records_within_the_window() -> None:
    run = Run(steps=[10, 20, 40, 50], times=[0.0, 0.001, 0.005, 0.009], seen=[])
    assert run.costs(10, 30) == pytest.approx([100, 200])
    assert run.costs(20, 30) == pytest.approx([200, 400])


def test_a_slope_is_found_within_its_error_and_none_where_there_is_none() -> None:
    noise = random.Random(0)
    flat = [(float(second), 300 + noise.gauss(0, 1)) for second in range(2000)]
    rate, error = slope(flat, 20)
    assert abs(rate) < 3 * error < 3e-4
    rate, error = slope([(second, size + 0.01 * second) for second, size in flat], 20)
    assert rate == pytest.approx(0.01, abs=3 * error)
    assert rate > 10 * error


def test_goals_notice_steps_that_grow_dearer_and_memory_that_grows() -> None:
    def run(cost: float, growth: float) -> Run:
        steps = range(10, 10_001, 10)
        times = [100.0 + cost * 1e-6 * step * (1 + growth * step / 10_000) for step in steps]
        seconds = [100 + (times[-1] - 100) * number / 400 for number in range(401)]
        noise = random.Random(2)
        seen = [(at, 300 + growth * at * 50 + noise.gauss(0, 0.1), at - 99) for at in seconds]
        return Run(list(steps), times, seen, [(1000, 0, 0), (3000, 1024, 5), (10_000, 1024 * (1 + int(growth)), 5)])

    for growth, met in ((0.0, True), (1.0, False)):
        result = Result(run(100, growth), run(100, 0), (10, 1000, 9000), 500)
        assert [goal.met for goal in goals(result)] == [met, met]
        assert result.in_use() == f"{growth * 1e5 / 7000:+.1f} KB of the C allocator's, +0 blocks of Python's"
    assert "| after 9,000 |" in result.markdown()
    first, last = result.tenths()
    assert first < 150 < 250 < last < 310  # 100 us and twice its share of the run more


def test_a_run_says_what_memory_is_in_use(tmp_path: Path) -> None:
    run = train(tmp_path, 30_000)
    assert run.steps[-1] == 30_000
    if malloc_bytes() is None:
        assert not run.in_use
        return
    assert [step for step, _, _ in run.in_use] == [10_000, 20_000]
    assert all(size > 2**20 and blocks > 10_000 for _, size, blocks in run.in_use)


def test_what_is_in_use_has_what_was_just_made() -> None:
    before = malloc_bytes()
    if before is None:
        pytest.skip("the C library has no mallinfo2")
    kept = bytearray(3 * 2**20)
    after = malloc_bytes()
    assert after is not None
    assert len(kept) <= after - before < len(kept) + 2**20
