"""From what somebody types to run directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from expkit.cli.finding import find_runs
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
