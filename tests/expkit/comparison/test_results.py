"""`ResultsParser` and `ResultsAggregator`, as the guide uses them."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

import pytest

from expkit import ResultsAggregator, ResultsParser, VisualizationManager
from expkit.comparison.text_results import parse_text
from expkit.errors import UserError
from tests.expkit.comparison.test_compare import make_run

TEXT = """\
Experiments of a week
======================
Experiment: baseline
--------------------
Config:
  learning_rate: 1e-3
  optimizer: AdamW
  use_rope: true

Step 100/5000: loss=6.5, val_loss=6.7
step 200 | loss 6.0 | val loss 6.2
Step: 300, Loss: 5.5 (val_loss: 5.9)
Final Validation Loss: 5.81
Training time: 1,234.5 s

=== wave ===
lr: 0.002
- seed: 3
**Val Loss:** 5.1
Accuracy: 97.5%
Optimizer: Adam
loss: 5.0, perplexity: 148.4
what is this
"""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "results.txt").write_text(TEXT)
    return tmp_path / "results.txt"


def test_a_text_is_read_by_its_grammar(text: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = ResultsParser(text).parse()
    assert (first["name"], second["name"]) == ("baseline", "wave")
    assert first["config"] == {"learning_rate": 0.001, "optimizer": "AdamW", "use_rope": True}
    assert first["loss_history"] == [6.5, 6.0, 5.5]
    assert first["metrics"]["val_loss"] == [6.7, 6.2, 5.9] and first["steps"]["val_loss"] == [100, 200, 300]
    assert first["final_metrics"] == {"loss": 5.5, "val_loss": 5.81, "train_time": 1234.5}
    assert second["config"] == {"lr": 0.002, "seed": 3, "Optimizer": "Adam"} and second["seed"] == 3
    assert second["final_metrics"] == {"val_loss": 5.1, "accuracy": 97.5, "loss": 5.0, "perplexity": 148.4}
    assert "passed over 2 line(s) that are no results, the first is line 1" in caplog.text


@pytest.mark.parametrize(
    ("line", "history", "final", "config"),
    [
        ("[2026-01-01 10:00:00] [INFO] step 100 loss 3.2", {"loss": [(100, 3.2)]}, {}, {}),
        ("[Step 100/500] loss: 3, acc: 1", {"loss": [(100, 3.0)], "acc": [(100, 1.0)]}, {}, {}),
        ("Epoch 3, Step 1,300: loss 2", {"loss": [(1300, 2.0)]}, {}, {}),
        ("Step 300 (epoch 3): loss 2", {"loss": [(300, 2.0)]}, {}, {}),
        ("[INFO] val_loss: 2", {}, {"val_loss": 2.0}, {}),
        ("step 5 loss -1e-3, lr .5", {"loss": [(5, -1e-3)], "lr": [(5, 0.5)]}, {}, {}),
        ("loss=6.5,val_loss=6.7", {}, {"loss": 6.5, "val_loss": 6.7}, {}),
        ("tokens: 1,234,567", {}, {"tokens": 1234567.0}, {}),
        ("val_loss: 0,523", {}, {}, {"val_loss": "0,523"}),  # 523 would be a lie
        ("hidden: 128,64", {}, {}, {"hidden": "128,64"}),
        ("Step 5: loss 3,21", {}, {}, {}),
        ("Step 5: loss=3,21", {}, {}, {}),
        (f"val_loss: 1{'0' * 3000}", {}, {}, {}),
    ],
)
def test_a_line_is_read_as_it_is_meant_or_not_at_all(
    line: str, history: dict[str, object], final: dict[str, float], config: dict[str, object]
) -> None:
    found, unread = parse_text(line)
    assert unread == ([] if history or final or config else [1])
    assert [(each.history, each.final, each.config) for each in found] == ([] if unread else [(history, final, config)])


def test_steps_are_put_in_their_order_and_none_of_many_is_left_out(tmp_path: Path) -> None:
    lines = [f"Step {step}: loss {step}" for step in (*range(3000, 6000), *range(1, 3000))]
    (tmp_path / "log.txt").write_text("\n".join(lines))
    history = [{"step": step, "loss": step} for step in range(1, 6000)]
    (tmp_path / "results.json").write_text(json.dumps({"training_history": history, "final_metrics": {"a": 1}}))
    for found in ResultsParser([tmp_path / "log.txt", tmp_path / "results.json"]).parse():
        assert found["loss_history"] == found["steps"]["loss"] == list(range(1, 6000))
        assert found["final_metrics"]["loss"] == 5999


def test_what_pythons_json_writes_is_read_and_what_is_odd_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(
        '{"final_metrics": {"val_loss": NaN, "a": null, "b": [1], "c": {"d": 1}, "e": true, "f": 2}, "seed": [1]}'
    )
    (found,) = ResultsParser(file).parse()
    aggregator = ResultsAggregator([found, {"name": "big", "final_metrics": {"f": 10**400}}])
    assert aggregator.metrics == ["f", "val_loss"] and found["seed"] is None
    assert aggregator.generate_summary_statistics()["f"]["n"] == 1
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    file.rename(tmp_path / "run" / "results.json")
    assert ResultsParser(tmp_path / "run").parse()[0]["config"] == {}, "a damaged configuration hides no results"


def test_a_text_without_a_heading_is_one_experiment(tmp_path: Path) -> None:
    (tmp_path / "mine.log").write_text("val_loss = 2.5\n")
    (found,) = ResultsParser(tmp_path / "mine.log").parse()
    assert (found["name"], found["final_metrics"]) == ("mine", {"val_loss": 2.5})


def test_runs_folders_and_results_are_read_alike(tmp_path: Path) -> None:
    run = make_run(tmp_path / "outputs" / "a", [3.0, 1.0, 2.0], seed=7, optimizer={"lr": 1})
    history = [{"epoch": 1, "step": 10, "train": {"loss": 2.0}, "test": {"loss": 3.0}}]
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"training_history": history, "final_metrics": {"val_loss": 3.0, "best_step": 10}}))
    (of_run,) = ResultsParser(run.root).parse()
    assert of_run["config"]["optimizer"] == {"lr": 1} and of_run["seed"] == 7
    assert of_run["metrics"]["val_loss"] == of_run["loss_history"] == [3.0, 1.0, 2.0]
    assert of_run["final_metrics"]["val_loss"] == 2.0
    assert ResultsParser(tmp_path / "outputs").parse() == [of_run]
    both = ResultsParser([run.root, results]).parse()
    assert both[1]["loss_history"] == [2.0] and both[1]["metrics"]["val_loss"] == [3.0]
    assert both[1]["final_metrics"] == {"train_loss": 2.0, "val_loss": 3.0, "best_step": 10}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.txt", None, "there is no such file"),
        ("empty.txt", "nothing here\n", "there are no results in it"),
        ("results.json", "{}", "neither training_history nor final_metrics"),
        ("torn.json", "{", "torn.json"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        ResultsParser(tmp_path / name).parse()
    assert says in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="there is no run in it"):
        ResultsParser(tmp_path / "folder").parse()


def test_the_guide_works_as_printed(text: Path) -> None:
    aggregator = ResultsAggregator()
    aggregator.load_from_parser(ResultsParser(text))
    table = aggregator.generate_comparison_table()
    assert "5.1 *" in table and "5.81 *" not in table and "missing" in table
    summary = aggregator.generate_summary_statistics()
    assert summary["val_loss"]["mean"] == pytest.approx(statistics.mean([5.81, 5.1]))
    assert summary["val_loss"]["std"] == pytest.approx(statistics.stdev([5.81, 5.1]))
    assert (summary["val_loss"]["min"], summary["val_loss"]["n"], summary["accuracy"]["std"]) == (5.1, 2, None)


def test_groups_of_experiments_are_paired_by_their_seeds() -> None:
    def experiment(name: str, seed: int, loss: float) -> dict[str, object]:
        return {"name": name, "seed": seed, "final_metrics": {"val_loss": loss}}

    aggregator = ResultsAggregator([experiment(f"a{seed}", seed, seed) for seed in range(3)])
    aggregator.add([experiment(f"b{seed}", seed, seed + 1 + 0.1 * seed) for seed in range(3)])
    found = aggregator.compare_groups(["a0", "a1", "a2"], ["b0", "b1", "b2"], "val_loss")
    assert found is not None
    assert found["paired"] and found["mean"] == pytest.approx(1.1)
    with pytest.raises(UserError, match="there is no experiment b9"):
        aggregator.compare_groups(["a0"], ["b9"], "val_loss")
    with pytest.raises(UserError, match="there is no final metric x"):
        aggregator.generate_comparison_table(["x"])
    with pytest.raises(UserError, match="needs a name and final_metrics"):
        aggregator.add([{"name": "c"}])
    assert aggregator.generate_comparison_table(format="csv").splitlines()[1] == "a0,0.0"


def test_what_was_parsed_can_be_drawn(text: Path, tmp_path: Path) -> None:
    made = VisualizationManager(tmp_path / "pictures").generate_comparison_plots(ResultsParser(text).parse())
    assert [path.name for path in made] == ["experiment_comparison.png"]


def test_what_results_have_of_a_run_that_was_killed_is_older_than_its_journal(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [3.0, 1.0])
    run.results.write_text(json.dumps({"final_metrics": {"val_loss": 3.0, "best_val_loss": 3.0}}))
    run.status.write_text(json.dumps({"state": "running"}))
    (killed,) = ResultsParser(run.root).parse()
    assert killed["final_metrics"]["val_loss"] == 1.0 and "best_val_loss" not in killed["final_metrics"]
    run.status.write_text(json.dumps({"state": "finished"}))
    (finished,) = ResultsParser(run.root).parse()
    assert finished["final_metrics"]["best_val_loss"] == 3.0, "it has finished: what it says counts"


def test_the_table_begins_with_what_tells_most() -> None:
    metrics = {"cpu/percent": 1.0, "samples": 5, "best_step": 3, "val_loss": 2.0}
    others = [{"name": f"r{place}", "final_metrics": {"cpu/percent": 1.0, "samples": 5}} for place in range(3)]
    aggregator = ResultsAggregator([{"name": "a", "final_metrics": metrics}, *others])
    assert aggregator.metrics[0] == "val_loss" and len(aggregator.metrics) == 4


def test_of_a_run_with_a_damaged_configuration_the_rest_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path / "outputs" / "a", [3.0])
    damaged = make_run(tmp_path / "outputs" / "b", [3.0])
    damaged.config.write_text("{")
    own = make_run(tmp_path / "outputs" / "own", [2.0])
    own.config.unlink()
    found = {each["name"]: each for each in ResultsParser(tmp_path / "outputs").parse()}
    assert found["b"]["config"] == {} and found["b"]["metrics"]["val_loss"] == [3.0] and "own" in found
    assert f"{damaged.config} is not valid JSON" in caplog.text


def test_of_a_folder_a_run_that_cannot_be_read_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = tmp_path / "outputs"
    for moment, name in ((30, "b"), (10, "z"), (20, "a")):
        run = make_run(outputs / name, [1.0])
        run.status.unlink(missing_ok=True)
        os.utime(run.metrics, (moment, moment))
    (outputs / "odd" / "logs" / "metrics.jsonl").mkdir(parents=True)
    assert [each["name"] for each in ResultsParser(outputs).parse()] == ["z", "a", "b"], "active last, at the end"
    assert f"passed over {outputs / 'odd'}: Is a directory" in caplog.text
    with pytest.raises(UserError, match="Is a directory"):
        ResultsParser(outputs / "odd").parse()


def test_settings_in_brackets_make_a_heading_and_steps_that_go_back_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mine.txt"
    lines = ["epoch 1: loss 2.5", "epoch 2: loss 2.0", "accuracy: 50"]
    path.write_text("\n".join(["wide (lr=0.1, seed=1)", *lines, "narrow (lr=0.01, seed=2):", *lines]))
    wide, narrow = ResultsParser(path).parse()
    assert (wide["name"], wide["config"], wide["seed"]) == ("wide", {"lr": 0.1, "seed": 1}, 1)
    assert (narrow["name"], narrow["loss_history"]) == ("narrow", [2.5, 2.0])
    assert not caplog.text
    path.write_text("\n".join(["wide, with the large rate", *lines, "narrow, with the small one", *lines]))
    assert len(ResultsParser(path).parse()) == 1
    assert "mine.txt: steps go back within mine: several experiments? Begin each with `Experiment:" in caplog.text


@pytest.mark.parametrize("given", ["results.txt", []])
def test_what_is_no_parser_is_refused(given: object) -> None:
    with pytest.raises(UserError, match=r"load_from_parser takes ResultsParser\(PATH\), not (str|list); add\(\)"):
        ResultsAggregator().load_from_parser(given)  # type: ignore[arg-type]
