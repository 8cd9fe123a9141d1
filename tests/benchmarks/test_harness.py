"""The harness's arithmetic, on fake clocks."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch

from benchmarks.harness import Comparison, compare, header, per_step


def recording(calls: list[str], samples: dict[str, list[float]]) -> dict[str, Callable[[], float]]:
    def make(name: str) -> Callable[[], float]:
        upcoming = iter(samples[name])

        def run() -> float:
            calls.append(name)
            return next(upcoming)

        return run

    return {name: make(name) for name in samples}


def test_competitors_take_turns_and_the_warm_up_is_thrown_away() -> None:
    calls: list[str] = []
    fakes = recording(calls, {"a": [99, 1, 2], "b": [99, 3, 4], "c": [99, 5, 6]})
    result = compare(fakes, "a", "s", rounds=2, warmup=1)
    assert "".join(calls) == "abcabcabc"
    assert result.samples == {"a": [1, 2], "b": [3, 4], "c": [5, 6]}


def test_a_shuffled_order_is_new_in_each_round_and_the_same_for_a_seed() -> None:
    def order(seed: int) -> list[str]:
        calls: list[str] = []
        fakes = recording(calls, {name: [0.0] * 20 for name in "abc"})
        compare(fakes, "a", "s", rounds=20, warmup=0, shuffle=seed)
        return ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]

    assert order(1) == order(1)
    assert len(set(order(1))) > 1
    assert all(sorted(turn) == ["a", "b", "c"] for turn in order(1))


def test_differences_and_ratios_are_taken_within_a_round() -> None:
    # The machine is ten times slower in the second round. Medians of b and a are 30 apart; in a round it is 2, 20, 3.
    result = Comparison("s", "a", {"a": [10.0, 100.0, 30.0], "b": [12.0, 120.0, 33.0]})
    a, b = result.rows()
    assert (a.name, a.median, a.q1, a.q3) == ("a", 30.0, 20.0, 65.0)
    assert (a.difference, a.ratio) == (0.0, 1.0)
    assert (b.median, b.difference, b.difference_q1, b.difference_q3) == (33.0, 3.0, 2.5, 11.5)
    assert b.ratio == pytest.approx(1.2)


def test_one_round_has_quartiles_too() -> None:
    (row,) = Comparison("s", "a", {"a": [7.0]}).rows()
    assert (row.median, row.q1, row.q3) == (7.0, 7.0, 7.0)


def test_per_step_divides_by_the_steps() -> None:
    moments = iter([10.0, 10.5])
    assert per_step(lambda: None, 1000, clock=lambda: next(moments)) == pytest.approx(500.0)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="baseline 'x' is none of a"):
        compare({"a": lambda: 0.0}, "x", "s")
    with pytest.raises(ValueError, match="0 rounds"):
        compare({"a": lambda: 0.0}, "a", "s", rounds=0)


def test_the_table_has_a_line_for_each_competitor() -> None:
    lines = Comparison("us", "a", {"a": [100.0, 100.0], "b": [103.0, 105.0]}).markdown().splitlines()
    assert lines[2:] == [
        "| a | 100.0 | 100.0 to 100.0 | baseline | | 1 |",
        "| b | 104.0 | 103.5 to 104.5 | +4.00 | +3.50 to +4.50 | 1.04 |",
    ]
    assert {line.count("|") for line in lines} == {7}


def test_the_header_names_versions_and_no_host() -> None:
    text = header("torch on 1 thread", "numpy")
    assert f"torch {torch.__version__}" in text
    assert "numpy " in text
    assert platform.node() not in text.replace(",", "").split()
