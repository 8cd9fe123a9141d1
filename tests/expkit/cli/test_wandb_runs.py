"""Which runs `expkit wandb` lists, finds and compares, on files of this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from expkit.cli.main import main
from tests.expkit.cli.test_wandb import TWO_GPUS, Ask, ask, make_run
from tests.expkit.wandb_data.log_writer import gpu_system

__all__ = ["ask"]  # a fixture


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outputs with runs old, middle and new, the current folder being the one above."""
    outputs = tmp_path / "outputs"
    for index, name in enumerate(("middle", "old", "new")):
        day = {"old": 1, "middle": 2, "new": 3}[name]
        rows = [{"gpu/memory_util_avg": 10.0 * day, "gpu/compute_util_avg": 20.0 * day}, {"gpu/compute_util_avg": 0.0}]
        run = make_run(outputs / name, f"id{index}", rows, day=day, name=name)
        (run / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return outputs


def test_runs_are_listed_newest_first(three: Path, ask: Ask) -> None:
    lines = ask("runs", "outputs").splitlines()
    assert [line.split()[2] for line in lines] == ["name", "new", "middle", "old"]
    assert [run["name"] for run in json.loads(ask("runs", three, "--limit", 2, "--json"))["runs"]] == ["new", "middle"]
    first = ask("runs", three, "--csv").splitlines()[1]
    assert first.split(",")[:4] == ["2023-11-17T22:13:20+00:00", "finished", "new", "id2"]


def test_a_run_is_found_by_name_id_or_as_the_newest(three: Path, ask: Ask) -> None:
    def found(*arguments: str) -> str:
        return json.loads(ask("keys", *arguments, "--json"))["run"]["name"]

    assert found("outputs") == "new"
    assert found("outputs", "--run-name", "old") == found("outputs", "--run-id", "id1") == "old"
    assert found("middle") == found("outputs/middle") == "middle"
    later = (three / "new" / "config.json").stat().st_mtime + 10
    os.utime(three / "old" / "config.json", (later, later))
    assert found("latest") == "old", "the run that was active last, as everywhere in expkit"
    ask("keys", "outputs", "--run-name", "nope", code=1)
    assert ask.said == "error: there is no run of the name nope in outputs; there are: new, middle, old\n"
    ask("keys", "outputs/nope", code=1)
    assert "outputs/nope is not there" in ask.said
    ask("keys", "outputs", "--project", "p", code=1)
    assert "give one of them" in ask.said


@pytest.mark.parametrize(
    "arguments",
    [
        ("wandb", "keys", "x" * 300),
        ("wandb", "compare", "x" * 300),
        ("replay", f"wandb.{'x' * 300}=1"),
        ("dashboard", "p", "--dir", "x" * 300),
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_a_name_in_the_configuration_is_a_name(tmp_path: Path, ask: Ask) -> None:
    make_run(tmp_path / "a", "abc", [{"loss": 1}], name="shown", config={"run_name": "mine"})
    assert ask("keys", tmp_path, "--run-name", "mine").startswith("Run: shown (abc)\n")


def test_a_comparison_goes_on_without_a_run_that_is_missing(three: Path, ask: Ask) -> None:
    text = ask("compare", "outputs/old", "nothing", "outputs/new", code=1)
    assert ask.said == (
        "error: nothing: neither a path nor the id of a run in outputs; for a run on the server say --project\n"
    )
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["outputs/old", "id1", "finished", "10.00%", "10.00%", "n/a", "n/a"],
        ["nothing", "not", "found", "n/a", "n/a", "n/a", "n/a"],
        ["outputs/new", "id2", "finished", "30.00%", "30.00%", "n/a", "n/a"],
    ]
    ask("compare", "nothing", "outputs/old", "neither", code=1)
    assert ask.said.count("\n") == 1 and ask.said.startswith("error: nothing, neither: neither a path"), "said once"
    shown = json.loads(ask("compare", "outputs/old", "outputs/new", "--json"))
    assert shown["runs"][1]["averages"] == {
        **{"memory_util": 30.0, "compute_util": 30.0},
        **{"memory_used_gb": None, "total_memory_gb": None},
    }
    assert ask("compare", "old", "--csv").splitlines()[1] == "old,id1,finished,10.0,10.0,,"


def test_a_comparison_averages_over_single_gpus_and_says_what_has_none(tmp_path: Path, ask: Ask) -> None:
    make_run(tmp_path / "a", "a", TWO_GPUS)
    make_run(tmp_path / "b", "b", [{"loss": 1}], [gpu_system(0, 4.0) | gpu_system(1, 6.0)])
    first, second = (line.split()[3:] for line in ask("compare", tmp_path / "a", tmp_path / "b").splitlines()[2:])
    assert first == ["n/a", "46.06%", "5.25", "GB", "10.50", "GB"]
    assert second == ["n/a"] * 4 and "b: no GPU metrics in the training history" in ask.said
    row = ask("compare", tmp_path / "b", "--system", "--csv").splitlines()[1]
    assert row.split(",")[3:] == ["20.0", "50.0", "5.0", "10.0"]
