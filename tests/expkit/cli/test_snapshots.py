"""`expkit snapshots RUN`: what there is, whether it is intact, and what --clean removes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expkit.cli.main import main
from expkit.experiment import RunDir
from tests.expkit.snapshots.making import MOMENT, Event, best, make_run, take


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with a spike of 2025-11-12 and a best model of the day after."""
    run = make_run(tmp_path / "outputs" / "mine", 1, 2)
    take(run)
    take(run, best(0.6321), step=18000, time=MOMENT + 86400, loss=0.6321)
    return run


def listed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    assert main(["snapshots", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def damage(run: RunDir) -> None:
    file = next(run.snapshots.glob("*spike*/training_status.json"))
    file.write_bytes(file.read_bytes().replace(b"running", b"RUNNING"))


def test_each_is_listed(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    shown = listed(capsys, run.root)
    spike, best_ = shown["snapshots"]
    assert (spike["time"], spike["reason"], spike["step"]) == ("2025-11-12 14:30:22", "loss_spike_37.8pct", 17500)
    assert (spike["loss"], spike["accuracy"], spike["checkpoint_step"]) == (1.0234, 58.3, 2)
    assert (best_["kinds"], best_["valid"]) == (["best_model"], None)
    assert shown["bytes_on_disk"] < spike["bytes"] + best_["bytes"]  # of the same checkpoint
    assert shown == listed(capsys, run.snapshots)


def test_the_model_of_another_trainer_is_named(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    """Its files say the step in their own way: "none" would read as if nothing had been kept."""
    model = next(run.snapshots.glob("*spike*")) / "model"
    next(model.iterdir()).rename(model / "adapter_model.safetensors")
    (model / "checkpoint-17500").mkdir()
    spike = listed(capsys, run.root, code=1)["snapshots"][0]  # its files are others than it was made with
    assert (spike["checkpoint_step"], spike["model"]) == (None, ["adapter_model.safetensors", "checkpoint-17500"])
    main(["snapshots", str(run.root)])
    assert "  adapter_model.safetensors, checkpoint-17500  " in capsys.readouterr().out


def test_verify_reads_every_byte(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert [each["valid"] for each in listed(capsys, run.root, "--verify")["snapshots"]] == [True, True]
    damage(run)
    assert [each["valid"] for each in listed(capsys, run.root)["snapshots"]] == [None, None]
    shown = listed(capsys, run.root, "--verify", code=1)
    assert [each["problem"] for each in shown["snapshots"]] == [
        "training_status.json was changed after it was written",
        None,
    ]


def test_the_table_is_for_people(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshots", str(run.root), "--verify"]) == 0
    folder, header, spike, _, total = capsys.readouterr().out.splitlines()
    assert folder == str(run.snapshots)
    assert header.split() == ["time", "reason", "step", "loss", "checkpoint", "size", "state"]
    assert spike.split()[:7] == ["2025-11-12", "14:30:22", "loss_spike_37.8pct", "17500", "1.0234", "step", "2"]
    assert spike.endswith("intact")
    assert total.startswith("2 snapshots, ")
    assert "shared with others" in total


def test_a_run_without_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "bare")
    assert main(["snapshots", str(run.root)]) == 0
    assert "no snapshot yet" in capsys.readouterr().out
    assert main(["snapshots", str(run.root), "--clean", "--kind", "loss_spike"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_clean_is_a_dry_run_first(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    clean = ("snapshots", str(run.root), "--clean", "--older-than", "30d", "--kind", "loss_spike")
    assert main(list(clean)) == 0
    shown = capsys.readouterr().out
    assert "loss_spike_37.8pct" in shown
    assert "best_model" not in shown
    assert shown.splitlines()[-1].endswith("--yes removes them")
    assert len(list(run.snapshots.iterdir())) == 2
    assert main([*clean, "--yes"]) == 0
    assert "1 snapshot removed" in capsys.readouterr().out
    assert [path.name for path in run.snapshots.iterdir()] == ["anomaly_20251113_143022_best_model_loss_0.6321"]


def test_a_kind_that_no_snapshot_is_of_is_said(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshots", str(run.root), "--clean", "--kind", "los_spike"]) == 0
    said = capsys.readouterr()
    assert said.err == "note: no snapshot is of the kind los_spike; there are: best_model, loss_spike\n"
    assert "nothing to remove" in said.out


def test_a_damaged_one_can_be_removed(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run)
    shown = listed(capsys, run.root, "--clean", "--max-size", "0", "--verify", "--yes")
    assert [each["valid"] for each in shown["snapshots"]] == [False]
    assert shown["cleaned"] is True
    assert len(list(run.snapshots.iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--clean",), "error: --clean: say which ones: --older-than 30d, --kind loss_spike, --max-size 10GB\n"),
        (("--kind", "x"), "error: --kind says what to remove: it belongs to --clean\n"),
        (("--yes",), "error: --yes says what to remove: it belongs to --clean\n"),
        (("--clean", "--older-than", "soon"), "error: --older-than soon: write a number and s, min, h, d or w: 30d\n"),
        (("--clean", "--max-size", "-1"), "error: --max-size -1: write a number and KB, MB, GB or TB: 10GB\n"),
    ],
)
def test_mistakes_are_one_line(
    run: RunDir, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert main(["snapshots", str(run.root), *arguments]) == 1
    assert capsys.readouterr().err == said
    assert len(list(run.snapshots.iterdir())) == 2


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshots", str(tmp_path / "nowhere")]) == 1
    assert "is no run" in capsys.readouterr().err


def test_somebody_elses_files_are_left_alone(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    (run.snapshots / "notes.txt").write_text("mine")
    (run.snapshots / "anomaly_99999999_999999_x").mkdir()
    take(run, Event("own", "own"), step=1)
    assert len(listed(capsys, run.root)["snapshots"]) == 3
    listed(capsys, run.root, "--clean", "--max-size", "0", "--yes")
    assert {"notes.txt", "anomaly_99999999_999999_x"} < {path.name for path in run.snapshots.iterdir()}
