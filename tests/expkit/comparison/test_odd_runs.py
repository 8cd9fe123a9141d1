"""Runs side by side that are long, alike, damaged, or called something that does harm."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from expkit import ResultsParser
from expkit.cli.compare import written
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.nested import MISSING
from expkit.record import Record
from expkit.table import Table
from tests.expkit.comparison.test_compare import make_run, of


def test_of_a_long_noisy_run_the_band_is_around_the_mean_not_between_the_extremes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    runs = [make_run(tmp_path / f"r{seed}", random.exponential(1, 20_000).tolist(), seed) for seed in range(2)]
    found = of(*runs, group_by="seed", metrics=["val_loss"])
    assert found.band(found.groups[0], "val_loss").mean.mean() == pytest.approx(1, abs=0.05)


def test_values_that_are_the_same_make_one_group_and_labels_tell_groups_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{place}", [1.0], place, lr=lr) for place, lr in enumerate([1, 1.0, 2, "2", None])]
    expected = [("lr 1", 2), ("lr 2", 1), ("lr '2'", 1), ("lr None", 1)]
    for key in ("seed", "lr"):
        assert [(group.label, len(group.runs)) for group in of(*runs, group_by=key).groups] == expected
    unknown = make_run(tmp_path / "unknown", [1.0])
    unknown.config.unlink()
    groups = of(runs[0], runs[1], unknown, group_by="seed").groups
    assert [(group.label, len(group.runs)) for group in groups] == [("all runs", 2), ("configuration not known", 1)]


def test_runs_with_the_same_id_stay_in_their_groups(tmp_path: Path) -> None:
    found = of(*(make_run(tmp_path / str(lr) / "same", [1.0], lr=lr) for lr in (1, 2)), group_by="lr")
    rows = csv.DictReader(io.StringIO(written(found, "csv").decode()))
    assert [(row["config/lr"], row["group"]) for row in rows if row["metric"] == "odd"] == [
        ("1", "lr 1"),
        ("2", "lr 2"),
    ]


def test_a_seed_that_is_none_pairs_nothing(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{place}", [1.0 * place], [place], lr=place // 2) for place in range(4)]  # type: ignore[arg-type]
    found = of(*runs, group_by="lr")
    tested = found.difference(found.groups[1], "val_loss")
    assert tested is not None
    assert not tested.paired


def test_a_clock_that_is_set_back_stands_still(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [5.0, 4.0])
    with Journal(run.metrics) as journal:
        for step, moment in ((3, 1e9 + 10), (4, 1e9 + 30), (5, 1e9 + 40)):
            journal.write(Record(step, step, moment, {"val_loss": 6.0 - step}))
    found = of(run, make_run(tmp_path / "b", [9.0, 8.0, 7.0]), along="time")
    assert found.runs[0].curve("val_loss", found.axis).line()[0] == [0.0, 10.0, 10.0, 20.0, 30.0]
    assert found.common_end("val_loss") == (20.0, [2.0, 7.0])


def test_a_run_with_nothing_but_final_metrics_is_compared_by_them(tmp_path: Path) -> None:
    for name, loss in (("a", 3.0), ("b", 4.0)):
        final = {"val_loss": loss, "note": "x", "step": 7, "none": None}
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({"final_metrics": final}))
    found = of(RunDir(tmp_path / "a"), RunDir(tmp_path / "b"))
    assert (found.metrics, found.left_out) == (["val_loss"], [])
    told = json.loads(written(found, "json"))["metrics"]["val_loss"]["runs"]
    assert [(each["last"], each["values"]) for each in told] == [(3.0, 1), (4.0, 1)]
    assert [each["name"] for each in ResultsParser(tmp_path).parse()] == ["a", "b"]


def test_of_a_long_text_the_beginning_is_shown_and_programs_have_all(tmp_path: Path) -> None:
    found = of(*(make_run(tmp_path / name, [1.0], note=name * 100_000) for name in "ab"))
    assert len(written(found, "text")) < 20_000 and b"(100,000 characters)" in written(found, "text")
    assert b"b" * 100_000 in written(found, "csv")


def test_a_best_value_of_which_nobody_knows_the_direction_is_said(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, [2.0, 1.0], lr=name) for name in "ab"]
    wanted = {"metrics": ["odd", "val_loss"], "group_by": "lr", "which": "best"}
    (said,) = of(*runs, **wanted).notes
    assert said == "whether less or more is better is not known of odd: --minimize or --maximize"
    assert of(*runs, **wanted, maximize=["odd"]).notes == []


def test_of_a_loop_that_went_back_what_it_did_again_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [5.0, 4.0, 0.0])
    with Journal(run.metrics) as journal:
        for step, loss in ((2, 3.0), (3, 2.0), (4, 2.5)):
            journal.write(Record(step, 1, 1e9 + step, {"val_loss": loss}))
    found = of(run, make_run(tmp_path / "b", [1.0] * 3))
    figures = found.runs[0].figures("val_loss")
    assert figures is not None
    assert (figures.last, figures.min, figures.min_step, figures.max) == (2.5, 2.0, 3, 5.0)
    assert found.common_end("val_loss") == (3.0, [2.0, 1.0])


def test_settings_are_told_with_all_their_digits(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / str(place), [1.0], lr=lr, batch=2048) for place, lr in enumerate([0.1234567, 0.1234568])
    ]
    text = written(of(*runs), "text").decode()
    assert "0.1234567" in text and "0.1234568" in text


OBEYED = "\x1b[31mred\x1b]0;x\x07\x9b1m\u202e\r\nend"


@pytest.mark.parametrize("form", ["text", "markdown", "csv", "json", "latex"])
def test_a_terminal_obeys_nothing_that_is_in_a_run(tmp_path: Path, form: str) -> None:
    nameless = os.fsdecode(bytes(tmp_path / "half") + b"\xff")
    runs = [make_run(Path(place), [2.0, 1.0], note=OBEYED + place) for place in (f"{tmp_path}/{OBEYED}", nameless)]
    with Journal(runs[0].metrics) as journal:
        journal.write(Record(3, 3, 1e9, {OBEYED: 1.0}))
    told = written(of(*runs, group_by="seed", metrics=["*"]), form).decode()
    assert "red" in told
    assert [sign for sign in told if not sign.isprintable() and sign != "\n"] == []


def test_brackets_are_no_arguments_of_latex() -> None:
    table = Table("t", ["[a]", "*"], [["[1]", "2|3"], ["* b", MISSING]])
    assert [line for line in table.latex().splitlines() if line.endswith(r"\\")] == [
        r"{}[a] & {}* \\", r"{}[1] & 2\textbar{}3 \\", r"{}* b & missing \\",
    ]  # fmt: skip


def test_lists_that_are_nested_without_end_are_texts(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, [1.0]) for name in "ab"]
    runs[1].config.write_text('{"config": {"deep": ' + "[" * 600 + "]" * 600 + "}}")
    for form in ("text", "json", "csv"):
        assert b"[[[" in written(of(*runs, group_by="seed"), form)
