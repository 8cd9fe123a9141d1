"""The components in somebody's own loop: everything that docs/library.md shows, as it shows it."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import expkit.visualization
from expkit import (
    CheckpointManager,
    ConfigTracker,
    MetricsLogger,
    VisualizationManager,
    check_disk_space,
    create_experiment_directory,
    generate_experiment_id,
)
from expkit.errors import UserError
from tests.expkit.plots.helpers import is_whole_png

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text()
BLOCKS = dict(re.findall(r"<!-- library: ([\w ]+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))


def run(block: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(BLOCKS[block], f"docs/library.md: {block}", "exec"), names)
    return names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, outside git."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def page(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Every example, run from top to bottom: the folder of runs, and what was printed."""
    outputs, printed = tmp_path_factory.mktemp("page"), io.StringIO()
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("GIT_CEILING_DIRECTORIES", str(outputs.parent))
        patch.chdir(outputs)
        patch.setattr("builtins.input", lambda question: print(question) or "y")
        for block in BLOCKS:
            run(block, names)
        expkit.visualization._finish_all()  # as the end of a script does
    yield outputs / "experiments", printed.getvalue()


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def test_every_example_has_a_name() -> None:
    assert len(BLOCKS) == PAGE.count("```python")


def test_the_examples_say_what_they_should(page: tuple[Path, str]) -> None:
    folder, said = page
    assert "Mean validation loss: 1.7950" in said and "1.71 *" in said
    assert "Go on from step 300? (y/n)" in said
    assert re.search(r"step 302: \d\.\d\d MB, 20\d\d-\S+ \S+, valid", said)
    assert "last logged step: 304" in said
    assert "visualizations/experiment_comparison.png True" in said
    assert list((folder / "digits_again").rglob("events.out.tfevents*")), "pictures for trackers"
    assert "not to be seen" not in said
    assert "\ncheckpoints/checkpoint_step_30" in said, "the best one, relative to the run directory"
    assert said.endswith("{'loss': 0.25}\n")
    root = folder / "digits_again"
    assert {"checkpoints/checkpoint_best.pt", "logs/metrics.0001.jsonl", "config.json", "results.json"} <= files(root)
    assert is_whole_png(root / "visualizations" / "training_dynamics_step_304.png")
    history = json.loads((root / "results.json").read_text())["training_history"]
    assert [(entry["epoch"], entry["step"]) for entry in history] == [(1, 310), (2, 320)]
    assert history[1]["test"].keys() == {"loss", "accuracy"}


def test_the_quick_start_leaves_what_the_page_says(page: tuple[Path, str]) -> None:
    (root,) = page[0].glob("digits_mlp_*")
    assert re.fullmatch(r"digits_mlp_\d{8}_\d{6}_[a-z0-9]{4}", root.name)
    steps = (100, 200, 300)
    assert files(root) == {
        "config.json", "results.json", "logs/metrics.jsonl", "logs/training.log", "checkpoints/checkpoint_latest.pt",
        *(f"checkpoints/checkpoint_step_{step}.pt" for step in steps),
        *(f"visualizations/training_dynamics_step_{step}.png" for step in steps),
    }  # fmt: skip
    shown = re.search(r"It leaves:\n\n```\n(.*?)```", PAGE, re.DOTALL)
    assert shown
    assert all(Path(file).name in shown[1] for file in files(root))
    assert (root / "checkpoints" / "checkpoint_latest.pt").readlink() == Path("checkpoint_step_300.pt")
    config = json.loads((root / "config.json").read_text())
    assert config["experiment_id"] == root.name
    assert config["config"] == {"lr": 0.1, "batch_size": 50, "seed": 0}
    assert (config["seed"], config["git_hash"], config["dataset"]["name"]) == (0, "unknown", "digits")
    assert config["model"]["parameters"] == config["model"]["trainable"] == 64 * 32 + 32 + 32 * 10 + 10
    assert {"timestamp", "command", "git_dirty", "packages", "hardware"} <= config.keys()
    assert {"gpu_model", "gpu_uuids", "gpu_count", "cpu", "memory_gb"} <= config["hardware"].keys()
    results = json.loads((root / "results.json").read_text())
    assert results["final_metrics"]["val_accuracy"] > 80, "real data, really learnt"
    assert (root / results["best_checkpoint"]).is_file()
    assert results.keys() == {
        "experiment_id", "training_history", "final_metrics", "best_checkpoint", "generation_samples",
    }  # fmt: skip
    lines = [json.loads(line) for line in (root / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, 301, 10))
    assert {"step", "epoch", "time", "loss", "gradient_norm", "val_loss", "val_accuracy"} == lines[0].keys()
    checkpoint = torch.load(root / "checkpoints" / "checkpoint_latest.pt", weights_only=True)
    assert checkpoint["step"] == len(checkpoint["loss_history"]) == 300
    assert {"model_state_dict", "optimizer_state_dict", "config"} <= checkpoint.keys()


def test_the_least_of_it_leaves_as_much(page: tuple[Path, str]) -> None:
    (root,) = page[0].glob("my_experiment_*")
    assert files(root) == {
        "config.json", "results.json", "logs/metrics.jsonl", "logs/training.log", "checkpoints/checkpoint_latest.pt",
        "checkpoints/checkpoint_step_1000.pt", "visualizations/training_dynamics_step_1000.png",
    }  # fmt: skip


class KilledError(Exception):
    pass


def run_resumable(die_at: int | None = None) -> dict[str, Any]:
    """What one start of the resumable script does, in a fresh process as far as torch is concerned."""
    names = run("own code", {})
    exec("from expkit import *", names)
    update, calls = names["update"], iter(range(1, 10_000))

    def dying() -> Any:
        if next(calls) == die_at:
            raise KilledError
        return update()

    names["update"] = dying
    return run("resume", names)


def test_a_script_that_is_killed_and_started_again_ends_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_resumable()
    (folder / "experiments").rename(folder / "whole")
    for die_at in (70, 170, 55):  # before the first checkpoint, after it, and again between the same two
        with pytest.raises(KilledError):
            run_resumable(die_at)
    stopped = run_resumable()
    assert capsys.readouterr().out.split("\n")[:2] == ["resumed at step 100"] * 2
    assert all(
        torch.equal(a, b) for a, b in zip(whole["model"].parameters(), stopped["model"].parameters(), strict=True)
    )
    assert stopped["loss_history"] == whole["loss_history"]

    def logged(base: str) -> list[tuple[int, float]]:
        lines = (folder / base / "digits_again" / "logs" / "metrics.jsonl").read_text().splitlines()
        return [(entry["step"], entry["loss"]) for entry in map(json.loads, lines)]

    assert logged("experiments") == logged("whole"), "no step twice, none missing"


def run_in_order(die_at: int | None = None) -> dict[str, Any]:
    """What one start of the script with a sampler does."""
    names = run("own code", {})
    exec("from expkit import *", names)
    loss, calls = names["cross_entropy"], iter(range(1, 10_000))

    def dying(*arguments: Any) -> Any:
        if next(calls) == die_at:
            raise KilledError
        return loss(*arguments)

    names["cross_entropy"] = dying
    torch.manual_seed(1)
    return run("sampler", names)


def test_a_loader_with_a_sampler_goes_on_in_the_middle_of_an_epoch(folder: Path) -> None:
    whole = run_in_order()
    (folder / "experiments").rename(folder / "whole")
    for die_at in (25, 30, 3):  # 30 batches are an epoch, and each 20th is saved
        with pytest.raises(KilledError):
            run_in_order(die_at)
    stopped = run_in_order()
    assert stopped["updates"] == whole["updates"] == 90
    assert (stopped["sampler"].epoch, stopped["sampler"].consumed) == (3, 0)
    assert torch.equal(stopped["net"].weight, whole["net"].weight)


@pytest.mark.parametrize(("answer", "step"), [("y", 300), ("n", None)])
def test_the_question_before_a_resume(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, step: int | None
) -> None:
    monkeypatch.setattr("builtins.input", lambda question: answer)
    names = run("ask", run_resumable())
    assert (names["checkpoint"] or {}).get("step") == step
    manager = CheckpointManager(folder / "experiments" / "digits_again")
    assert manager.restore(names["model"], names["optimizer"]) == step
    assert bool(names["metrics_logger"].load_metrics()) is (answer == "y")
    rewound = list((folder / "experiments" / "digits_again" / "checkpoints").glob("*.rewound"))
    assert len(rewound) == (0 if answer == "y" else 3)


def test_the_guides_loop_which_counts_from_0(folder: Path) -> None:
    names = run("own code", {})
    model, optimizer, update = names["model"], names["optimizer"], names["update"]
    dirs = create_experiment_directory("experiments", generate_experiment_id("wave"))
    checkpoint_mgr = CheckpointManager(experiment_dir=dirs["root"], save_interval=10, keep_last_n=3)
    metrics_logger = MetricsLogger(log_dir=dirs["logs"], log_interval=10)
    viz_manager = VisualizationManager(viz_dir=dirs["visualizations"], viz_interval=20)
    loss_history: list[float] = []
    for step in range(45):
        loss, norm = update()
        loss_history.append(loss)
        if metrics_logger.should_log(step):
            metrics_logger.log_metrics(step, {"loss": loss, "gradient_norm": norm}, flush=True)
        if checkpoint_mgr.should_checkpoint(step):
            checkpoint_mgr.save_checkpoint(step, model, optimizer, loss_history, {})
        if viz_manager.should_visualize(step):
            viz_manager.generate_training_plots(step, loss_history, {})
            viz_manager.generate_model_plots(step, model)
    viz_manager.close()
    assert [entry["step"] for entry in metrics_logger.load_metrics()] == [0, 10, 20, 30, 40]
    assert [each["step"] for each in checkpoint_mgr.list_checkpoints()] == [20, 30, 40]
    assert {path.name for path in dirs["visualizations"].iterdir()} == {
        "training_dynamics_step_20.png", "training_dynamics_step_40.png",
    }  # fmt: skip
    checkpoint = CheckpointManager(dirs["root"]).load_latest_checkpoint()
    assert checkpoint
    assert checkpoint["step"] + 1 == len(checkpoint["loss_history"]) == 41
    assert checkpoint["loss_history"][-1] == loss_history[40]


def test_a_wrapped_model_is_resumed_with_its_weights(folder: Path) -> None:
    saved, loaded = nn.DataParallel(nn.Linear(2, 1)), nn.DataParallel(nn.Linear(2, 1))
    optimizer = torch.optim.SGD(saved.parameters(), lr=0.1)
    CheckpointManager(folder).save_checkpoint(1, saved, optimizer, [], {})
    assert CheckpointManager(folder).restore(loaded) == 1
    assert torch.equal(loaded.module.weight, saved.module.weight)


def test_the_same_directory_at_every_start(folder: Path) -> None:
    first = create_experiment_directory("experiments", "mine", exist_ok=True)
    (first["logs"] / "metrics.jsonl").write_text("")
    (first["visualizations"]).rmdir()
    assert create_experiment_directory("experiments", "mine", exist_ok=True) == first
    assert first["visualizations"].is_dir()
    assert (first["logs"] / "metrics.jsonl").exists()
    with pytest.raises(UserError, match="exists already"):
        create_experiment_directory("experiments", "mine")


def test_what_was_logged_after_a_checkpoint_is_set_aside(folder: Path) -> None:
    logger = MetricsLogger(folder)
    for step in range(1, 6):
        logger.log_metrics(step, {"loss": 1.0}, flush=False)
    assert logger.rewind(3) == 2
    logger.log_metrics(4, {"loss": 2.0})
    assert [(entry["step"], entry["loss"]) for entry in logger.load_metrics()] == [(1, 1), (2, 1), (3, 1), (4, 2)]
    assert len((folder / "metrics.cut-1.jsonl").read_text().splitlines()) == 2
    assert logger.rewind(9) == 0


def test_a_logger_that_is_never_closed_loses_no_line(folder: Path) -> None:
    logger = MetricsLogger(folder)
    logger.log_metrics(1, {"loss": 1.0}, flush=False)
    assert not (folder / "metrics.jsonl").read_text()
    del logger
    gc.collect()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_configuration_may_be_the_first_thing_in_a_directory(folder: Path) -> None:
    assert ConfigTracker("experiments/mine").save_config({"lr": 0.1}).exists()


@pytest.mark.parametrize(("wanted", "enough"), [(0, True), (1e9, False)])
def test_too_little_space_is_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, wanted: float, enough: bool
) -> None:
    assert check_disk_space("not/there/yet", min_gb=wanted) is enough
    assert len(caplog.records) == (not enough)
    assert not (folder / "not").exists()
