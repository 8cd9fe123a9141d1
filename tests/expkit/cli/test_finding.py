"""From what somebody types to run directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from expkit.cli.finding import find, find_any, find_runs, find_with, newest_runs
from expkit.errors import UserError


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    outputs = Path("outputs")
    for place, name in enumerate(("a_1", "a_2", "b_1")):
        (outputs / name).mkdir(parents=True)
        (outputs / name / "config.json").write_text("{}")
        os.utime(outputs / name / "config.json", (place, place))
    (outputs / "a_rest").mkdir()
    (outputs / "own" / "logs").mkdir(parents=True)
    (outputs / "own" / "logs" / "metrics.jsonl").touch()
    (outputs / "guide").mkdir()
    (outputs / "guide" / "results.json").write_text("{}")
    return outputs


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], ["b_1"]),
        (["latest"], ["b_1"]),
        (["a_1"], ["a_1"]),
        (["outputs/a_1", "a_1", "a_2"], ["a_1", "a_2"]),
        (["a_*"], ["a_1", "a_2"]),
        (["outputs/a_?"], ["a_1", "a_2"]),
        (["outputs/own", "outputs/guide"], ["own", "guide"]),
        (["*"], ["a_1", "a_2", "b_1", "guide", "own"]),
    ],
)
def test_paths_ids_patterns_or_nothing(outputs: Path, names: list[str], found: list[str]) -> None:
    assert [run.id for run in find_runs(names, outputs)] == found


def test_a_pattern_may_be_absolute(outputs: Path) -> None:
    assert [run.id for run in find_runs([str(outputs.absolute() / "a_*")], Path("elsewhere"))] == ["a_1", "a_2"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "nothing is no run"),
        ("x_*", "no run matches this"),
        ("a_rest", "a_rest is no run"),
        ("*_rest", "no run"),
    ],
)
def test_what_is_no_run_is_refused(outputs: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_runs([name], outputs)


def test_the_end_of_an_id_will_do_where_it_is_the_only_one(outputs: Path) -> None:
    for name in ("gpt_20260101_k3xq", "gpt_20260102_abcd", "gpt_20260103_abcd"):
        (outputs / name).mkdir()
        (outputs / name / "config.json").write_text("{}")
    assert find("k3xq", outputs).id == "gpt_20260101_k3xq"
    assert find("…01_k3xq", outputs).id == "gpt_20260101_k3xq", "as a list shows it"
    assert find("02_abcd", outputs).id == "gpt_20260102_abcd"
    with pytest.raises(UserError, match="abcd: 2 runs in outputs end like that, gpt_20260102_abcd and gpt_"):
        find("abcd", outputs)
    with pytest.raises(UserError, match="xq is no run"):
        find("xq", outputs)


def test_a_run_of_a_sweeps_folder_is_named_as_the_list_does(outputs: Path) -> None:
    (outputs / "sweep" / "0").mkdir(parents=True)
    (outputs / "sweep" / "0" / "config.json").write_text("{}")
    assert find("sweep/0", outputs).root == outputs / "sweep" / "0"
    with pytest.raises(UserError, match="is no run"):
        find("../outputs", outputs)


def test_runs_of_ones_own_loop_are_found_where_a_journal_is_enough(outputs: Path) -> None:
    assert find_any("own", outputs).id == "own"
    assert find_any(None, outputs).id == "b_1", "the newest that has a config.json"
    assert find_with("snapshots", "own", outputs).id == "own", "by its name, not only by its path"
    with pytest.raises(UserError, match=r"own is no run: there is no config\.json in outputs/own; in your own loop"):
        find("own", outputs)
    for name in ("a_1", "a_2", "b_1"):
        (outputs / name / "config.json").unlink()
    os.utime(outputs / "guide" / "results.json", (1, 1))
    assert find_any(None, outputs).id == "own"
    assert [run.id for run in newest_runs(outputs, 2)] == ["guide", "own"]
