"""The page of the benchmarks, and running several of them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as command
from benchmarks.harness import Goal
from benchmarks.page import part, put

TITLES = {"loop": "A training step", "start": "The first step"}


def made(name: str, *goals: Goal, table: str = "| table |") -> str:
    return part(TITLES[name], "What was measured.", "2026-01-01, a machine.", table, goals)


def test_parts_stand_in_their_order_and_are_replaced() -> None:
    page = put(put("", "start", made("start"), TITLES), "loop", made("loop", table="old \\1"), TITLES)
    assert page.startswith("# Benchmarks\n")
    assert page.index("## A training step") < page.index("## The first step")
    again = put(page, "loop", made("loop", table="new \\1"), TITLES)
    assert again == page.replace("old", "new")
    assert put(again, "loop", made("loop", table="new \\1"), TITLES) == again
    assert "## Summary" not in again


def test_the_summary_has_the_goals_of_all_parts_though_one_was_measured() -> None:
    page = put("", "start", made("start", Goal("within 2 s", "1.9 s", True)), TITLES)
    page = put(page, "loop", made("loop", Goal("at most 35 us", "40 us", False, "it keeps -- every <loss>")), TITLES)
    lines = page.split("## Summary\n")[1].split("<!--")[0].split("\n")
    assert [line for line in lines if line.startswith("| [")] == [
        "| [loop](#a-training-step) | at most 35 us | 40 us | no: it keeps -- every <loss> |",
        "| [start](#the-first-step) | within 2 s | 1.9 s | yes |",
    ]
    assert page.index("## Summary") < page.index("<!-- begin loop")
    assert "within 2 s | 1.9 s" not in put(page, "start", made("start"), TITLES)


def test_parts_of_benchmarks_that_are_no_more_go() -> None:
    page = put(put("", "start", made("start"), TITLES), "loop", made("loop"), TITLES)
    assert "The first step" not in put(page, "loop", made("loop"), {"loop": TITLES["loop"]})


def test_one_that_fails_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    ran = []

    def run(arguments: list[str], check: bool) -> SimpleNamespace:
        ran.append(arguments[-1])
        return SimpleNamespace(returncode=int(arguments[-1] == "runs"))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["benchmarks", "sweep", "runs", "scale"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    assert ran == ["sweep", "runs", "scale"]
    *_, summary, failure = capsys.readouterr().out.splitlines()
    assert summary.startswith("2 of 3 benchmarks in 0 min")
    assert failure.startswith("runs failed with exit code 1")


def test_a_wrong_name_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "loop", "jornal"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "there is no benchmark 'jornal': choose of loop," in capsys.readouterr().err


def test_the_list_names_modules_that_are_there(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--list"])
    command.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(command.BENCHMARKS)
    folder = Path(command.__file__).parent
    assert all((folder / f"{module}.py").is_file() for _, module, _ in command.BENCHMARKS.values())
