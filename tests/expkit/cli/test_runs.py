"""`expkit runs`: what is printed, and what is refused."""

from __future__ import annotations

import csv
import gc
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from expkit.cli.main import main


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty finished runs, and one that failed last."""
    monkeypatch.chdir(tmp_path)
    for number in range(41):
        root = tmp_path / "outputs" / f"toy_net_adam_20260101_1200{number:02d}_abcd"
        root.mkdir(parents=True)
        config = {"optimizer": {"lr": number / 1000}, "trainer": {"seed": number % 3}}
        (root / "config.json").write_text(
            json.dumps({"config": config, "overrides": [f"optimizer.lr={number / 1000}"]})
        )
        beat = time.time() - 1000 + number
        state = "failed" if number == 40 else "finished"
        status = {"state": state, "step": number, "heartbeat_time": beat, "metrics": {"val_loss": abs(number - 20.0)}}
        (root / "status.json").write_text(json.dumps(status))
    return tmp_path / "outputs"


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["runs", *arguments, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["runs"]
    return found


def test_text_has_the_last_active_on_top_and_says_what_it_left_out(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "41 runs in outputs"
    assert lines[1].split() == ["run", "state", "step", "active", "duration", "val_loss", "overrides"]
    assert lines[3].split()[:3] == ["toy_net_adam_20260101_120040_abcd", "failed", "40"]
    assert lines[-1].strip() == "11 more: --limit 0 shows all" and len(lines) == 34
    assert gc.isenabled()


def test_programs_get_all_of_them_with_raw_values(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys)
    assert len(found) == 41 and found[0]["state"] == "failed" and found[0]["val_loss"] == 20.0
    assert found[0]["path"] == "outputs/toy_net_adam_20260101_120040_abcd"
    assert isinstance(found[0]["active"], float)
    assert main(["runs", "--format", "csv", "--columns", "run,optimizer.lr", "--sort", "optimizer.lr"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["run", "optimizer.lr"] and len(rows) == 42 and float(rows[1][1]) == 0.0
    assert main(["runs", "--format", "markdown", "--limit", "1"]) == 0
    assert "| run | state |" in capsys.readouterr().out


def test_conditions_states_order_and_limit_go_together(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["--filter", "optimizer.lr>0.01", "--filter", "seed=1,2", "--state", "finished"]
    found = listed(capsys, *both, "--sort", "val_loss", "--limit", "3", "--columns", "step,val_loss")
    assert found == [{"step": 20, "val_loss": 0.0}, {"step": 19, "val_loss": 1.0}, {"step": 22, "val_loss": 2.0}]
    assert [each["step"] for each in listed(capsys, "--sort", "-step", "--limit", "2")] == [40, 39]
    assert [each["step"] for each in listed(capsys, "--sort=-optimizer.lr", "--limit", "1")] == [40]


def test_what_has_no_value_comes_last_in_both_orders(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (outputs / "empty" / "logs").mkdir(parents=True)
    for sort in ("val_loss", "-val_loss"):
        assert listed(capsys, "--sort", sort)[-1]["run"] == "empty"


def test_nothing_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == (
        f"there is no run in {tmp_path / 'outputs'}: start one with python -m train, or name the folder of your runs\n"
    )
    assert listed(capsys) == []
    (tmp_path / "outputs").mkdir()
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.startswith("there is no run in ")


def test_none_of_this_kind(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--state", "crashed"]) == 0
    assert capsys.readouterr().out == "none of 41 runs in outputs is of this kind\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "nowhere is not there"),
        (["--columns", "lr"], "--columns lr: no run here has it; did you mean optimizer.lr?"),
        (["--columns", ","], "--columns: no column is named"),
        (["--sort", "-lr"], "--sort lr: no run here has it"),
        (["--filter", "lr=1"], "--filter lr: no run here has it"),
        (["--filter", "optimizer.lr"], "--filter optimizer.lr: write NAME=VALUE"),
        (["--state", "ended"], "--state ended: there is no such state; choose from starting, running"),
        (["--limit", "-1"], "--limit -1: give a number of runs"),
    ],
)
def test_mistakes(outputs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    assert main(["runs", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"error: {line}") and said.err.count("\n") == 1


def test_a_narrow_terminal_keeps_the_end_of_names(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["runs", "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    name = lines[3].split()[0]
    assert name.startswith("…") and name.endswith("120040_abcd")
    assert main(["show", name]) == 0, "what is shown can be typed"
    assert capsys.readouterr().out.startswith("run         outputs/toy_net_adam_20260101_120040_abcd\n")


def test_what_was_typed_for_all_of_them_tells_nothing(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for root in outputs.iterdir():
        config = json.loads((root / "config.json").read_text())
        config["overrides"].append("tracker=[]")
        (root / "config.json").write_text(json.dumps(config))
    assert main(["runs", "--limit", "2"]) == 0
    said = capsys.readouterr().out
    assert "optimizer.lr=0.04" in said and "tracker" not in said
    assert main(["runs", "--limit", "1"]) == 0
    assert "tracker=[]" in capsys.readouterr().out
