"""Runs side by side: made here, with figures that are known."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from expkit.cli.compare import draw, written
from expkit.cli.main import main
from expkit.comparison.compare import Comparison, Request, compare
from expkit.comparison.panels import panels_of
from expkit.comparison.run_data import label_runs, load_run
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.record import Record


def make_run(root: Path, losses: Sequence[float], seed: int = 0, every: int = 1, **config: Any) -> RunDir:
    run = RunDir(root)
    run.logs.mkdir(parents=True)
    whole = {"run": {"id": run.id, "dir": str(root)}, "trainer": {"seed": seed}, **config}
    run.config.write_text(json.dumps({"config": whole, "git_hash": "abc"}))
    with Journal(run.metrics) as journal:
        for number, loss in enumerate(losses, 1):
            step = number * every
            journal.write(
                Record(step, number, 1e9 + 10 * number, {"val_loss": loss, "odd": -loss, "samples": 32.0 * step})
            )
    return run


def of(*runs: RunDir, **request: Any) -> Comparison:
    labels = label_runs([run.id for run in runs])
    return compare([load_run(run, label) for run, label in zip(runs, labels, strict=True)], Request(**request))


@pytest.fixture
def six(tmp_path: Path) -> list[RunDir]:
    """Three seeds with each of two learning rates."""
    return [
        make_run(tmp_path / f"run_{lr}_{seed}", [3 * lr, lr + 0.1 * seed, 2 * lr], seed, optimizer={"lr": lr})
        for lr in (1.0, 2.0)
        for seed in range(3)
    ]


def test_only_what_differs_is_shown_and_a_missing_key_is_missing(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", [1.0], optimizer={"lr": 1, "fused": True}, task={"d": 4})
    second = make_run(tmp_path / "b", [1.0], optimizer={"lr": 2}, task={"d": 4})
    found = of(first, second)
    assert {key: list(map(repr, values)) for key, values in found.differences.items()} == {
        "optimizer.lr": ["1", "2"],
        "optimizer.fused": ["True", "missing"],
    }
    assert "missing" in written(found, "text").decode()


def test_a_run_whose_configuration_is_not_known_differs_in_nothing(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, [1.0], optimizer={"lr": lr, "eps": None}) for name, lr in (("a", 1), ("b", 2))]
    foreign = make_run(tmp_path / "c", [1.0])
    foreign.config.unlink()
    found = of(*runs, foreign)
    assert list(found.differences) == ["optimizer.lr"]
    assert found.notes == ["no configuration is known of c"]
    assert "missing" in written(found, "text").decode()


def test_last_best_least_and_greatest_are_told_with_their_steps(tmp_path: Path) -> None:
    found = of(make_run(tmp_path / "a", [3.0, 1.0, 2.0], every=10), make_run(tmp_path / "b", [5.0, math.nan], every=10))
    figures = found.runs[0].figures("val_loss")
    assert figures is not None
    assert (figures.last, figures.min, figures.min_step, figures.max, figures.max_step) == (2.0, 1.0, 20, 3.0, 10)
    assert figures.best(found.direction("val_loss")) == (1.0, 20)
    assert found.direction("odd") is None
    other = found.runs[1].figures("val_loss")
    assert other is not None
    assert math.isnan(other.last) and (other.count, other.nonfinite) == (1, 1)


@pytest.mark.parametrize(
    ("along", "place", "values"),
    [("step", 4.0, [1.0, 4.0]), ("epoch", 2.0, [2.0, 4.0]), ("time", 10.0, [2.0, 4.0]), ("samples", 128.0, [1.0, 4.0])],
)
def test_runs_are_held_against_each_other_where_the_shorter_one_ends(
    tmp_path: Path, along: Any, place: float, values: list[float]
) -> None:
    long = make_run(tmp_path / "a", [3.0, 2.0, 1.5, 1.0, 0.5])
    short = make_run(tmp_path / "b", [5.0, 4.0], every=2)
    found = of(long, short, along=along)
    common = found.common_end("val_loss")
    assert common is not None
    assert (common[0], common[1]) == (place, pytest.approx(values))


def test_a_long_run_is_read_again_where_the_short_one_ends(tmp_path: Path) -> None:
    long = make_run(tmp_path / "a", [1.0 * (number % 7) for number in range(1, 20_000)])
    short = make_run(tmp_path / "b", [5.0, 4.0, 3.0])
    assert of(long, short).common_end("val_loss") == (3.0, [3.0, 3.0])
    assert of(long, make_run(tmp_path / "c", [1.0], every=15_003)).common_end("val_loss") == (15_003.0, [2.0, 1.0])


def test_a_metric_that_one_run_has_not_is_missing_there(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a", [3.0, 2.0]), make_run(tmp_path / "b", [3.0])
    with Journal(second.metrics) as journal:
        journal.write(Record(2, 1, 1e9, {"val_accuracy": 50.0}))
    found = of(first, second, metrics=["val_accuracy"])
    row = json.loads(written(found, "json"))["metrics"]["val_accuracy"]["runs"]
    assert [entry["last"] for entry in row] == [None, 50.0]
    assert "missing" in written(found, "markdown").decode()


def test_seeds_are_one_group_and_groups_are_tested_in_pairs(six: list[RunDir]) -> None:
    found = of(*six, group_by="seed", which="best")
    assert [(group.label, len(group.runs)) for group in found.groups] == [("lr 1.0", 3), ("lr 2.0", 3)]
    estimates = [found.estimate(group, "val_loss") for group in found.groups]
    assert [each.mean for each in estimates if each] == pytest.approx([1.1, 2.1])
    tested = found.difference(found.groups[1], "val_loss")
    assert tested is not None
    assert tested.paired and (tested.n, tested.mean) == (3, pytest.approx(1.0))
    band = found.band(found.groups[0], "val_loss")
    assert band.mean.tolist() == pytest.approx([3.0, 1.1, 2.0])
    assert band.high[1] > band.mean[1] and band.high[0] == pytest.approx(band.mean[0])


def test_groups_that_differ_in_much_are_called_by_little(tmp_path: Path) -> None:
    def run(name: str, seed: int, **config: Any) -> RunDir:
        return make_run(tmp_path / name, [1.0], seed, **config)

    much = {f"k{number}": "a long value" for number in range(30)}
    found = of(run("a", 0, task={"d": 4}), run("b", 1, task={"d": 4}), run("c", 0, task=much), group_by="seed")
    assert [(group.label, len(group.runs)) for group in found.groups] == [("d 4", 2), ("d missing", 1)]
    long = {"path": "x" * 100}
    found = of(run("e", 0, data=long), run("f", 0, data={"path": "y" * 100}), group_by="seed")
    assert [group.label for group in found.groups] == ["group 1", "group 2"]


def test_a_key_makes_groups_too_and_its_end_is_enough(six: list[RunDir]) -> None:
    found = of(*six, group_by="lr", baseline="lr 2.0")
    assert [group.label for group in found.groups] == ["lr 1.0", "lr 2.0"]
    assert found.baseline is found.groups[1]
    assert found.difference(found.groups[0], "val_loss") is not None
    for wanted in ("2", "lr=2", "optimizer.lr 2"):
        found = of(*six, group_by="optimizer.lr", baseline=wanted)
        assert found.baseline is found.groups[1]
    found = of(make_run(six[0].root.parent / "more", [1.0], optimizer={"lr": 12.0}), *six, group_by="lr", baseline="2")
    assert found.baseline is not None and found.baseline.label == "lr 2.0"


def test_a_selected_option_makes_groups(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", [1.0], optimizer={"_target_": "torch.optim.Adam", "lr": 1})
    second = make_run(tmp_path / "b", [1.0], optimizer={"_target_": "torch.optim.SGD", "lr": 1})
    found = of(first, second, group_by="optimizer", baseline="sgd")
    assert [group.label for group in found.groups] == ["optimizer adam", "optimizer sgd"], "as expkit runs calls them"
    assert [run.label for run in found.runs] == ["optimizer adam", "optimizer sgd"]
    mine = make_run(tmp_path / "c", [1.0], optimizer={"_target_": "mine.Adam", "lr": 1})
    labels = [group.label for group in of(first, mine, group_by="optimizer").groups]
    assert labels == ["optimizer torch.optim.Adam", "optimizer mine.Adam"], "two classes of one name are no group"


def test_runs_are_called_by_what_they_differ_in_if_that_tells_them_apart(six: list[RunDir]) -> None:
    assert [run.label for run in of(*six[:2]).runs] == ["seed 0", "seed 1"]
    assert of(*six).runs[3].label == "seed 0, lr 2.0"
    assert [run.label for run in of(six[0], six[0]).runs] == ["0 (1)", "0 (2)"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"metrics": ["val_los"]}, "--metrics val_los: no run has such a metric; there are val_loss"),
        ({"group_by": "optimizer.lrr"}, "no run has such a key"),
        ({"group_by": "seed", "baseline": "x"}, "there is no such group; there are: lr 1.0, lr 2.0"),
        ({"baseline": "x"}, "--baseline x: there are no groups; say which with --group-by"),
        ({"group_by": "sed"}, "there are seed"),
        ({"minimize": ["x"]}, "there is no metric x"),
        ({"minimize": ["odd"], "maximize": ["odd"]}, "odd: choose one of them"),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(six: list[RunDir], request_: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        of(*six, **request_)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_every_form_has_the_same_figures(six: list[RunDir], tmp_path: Path) -> None:
    found = of(*six, group_by="seed", metrics=["val_loss"])
    plain = json.loads(written(found, "json"))
    rows = list(csv.DictReader(io.StringIO(written(found, "csv").decode())))
    assert [float(row["best"]) for row in rows] == [entry["best"] for entry in plain["metrics"]["val_loss"]["runs"]]
    assert [row["config/optimizer.lr"] for row in rows] == ["1.0"] * 3 + ["2.0"] * 3
    assert {row["group"] for row in rows} == {"lr 1.0", "lr 2.0"}
    latex = written(found, "latex").decode()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 4
    assert r"val\_loss" in latex
    assert "| group | n | mean |" in written(found, "markdown").decode()
    panels = panels_of(found)
    assert [line.label for line in panels[0].lines] == ["lr 1.0 (3 runs)", "lr 2.0 (3 runs)"]
    assert all(line.band is not None for line in panels[0].lines)
    draw(found, tmp_path / "a.svg", "print")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_a_table_can_be_pasted_whatever_is_in_it(tmp_path: Path) -> None:
    found = of(make_run(tmp_path / "a", [1.0], note="a|b\n50% & $x_1$"), make_run(tmp_path / "b", [1.0], note="c"))
    assert r"a\|b 50%" in written(found, "markdown").decode()
    assert r"a\textbar{}b 50\% \& \$x\_1\$" in written(found, "latex").decode()


def test_the_command_writes_what_the_ending_says(
    six: list[RunDir], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = six[0].root.parent
    monkeypatch.chdir(folder)
    assert main(["compare", "run_*", "--group-by", "seed", "-o", "made/table.tex"]) == 0
    assert r"\toprule" in (folder / "made" / "table.tex").read_text()
    assert main(["compare", "--outputs", ".", "--json"]) == 0
    capsys.readouterr()
    assert main(["compare", "--outputs", str(folder), "--newest", "3", "--metrics", "odd, val_loss", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "a.xls"], "its name must end in .md, .csv"),
        (["-o", "a.md", "--format", "text"], "leave --format out"),
        (["--newest", "0"], "at least 1"),
        (["run_x"], "run_x is no run"),
        (["--metrics", ","], "no metric is named"),
        (["-o", "/proc/a.md"], "cannot be written"),
        (["--theme", "pink", "-o", "a.png"], "pink"),
    ],
)
def test_mistakes_are_one_line(
    six: list[RunDir],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(six[0].root.parent)
    assert main(["compare", *([] if "run_x" in arguments else ["--outputs", "."]), *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and says in said


def test_a_run_whose_files_are_damaged_is_not_taken_for_one_of_somebodys_own(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "broken")
    run.root.mkdir()
    run.config.write_text("{")
    assert load_run(run).state == "unreadable"
