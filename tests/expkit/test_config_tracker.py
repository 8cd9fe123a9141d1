"""config.json says what a run was, results.json what came out of it."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from expkit import ConfigTracker
from expkit.errors import UserError
from expkit.files import write_json


@pytest.fixture
def tracker(tmp_path: Path) -> ConfigTracker:
    (tmp_path / "my_run").mkdir()
    return ConfigTracker(tmp_path / "my_run")


def test_config_json_has_every_field_of_the_contract(tracker: ConfigTracker, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[0].requires_grad_(False)
    path = tracker.save_config({"lr": 0.1, "seed": 3}, model, {"name": "toy", "size": 10}, parent=None)
    assert path == tmp_path / "my_run" / "config.json"
    content = json.loads(path.read_text())
    assert content == tracker.load_config()
    assert content["experiment_id"] == "my_run"
    assert content["timestamp"][:2] == "20"
    assert isinstance(content["command"], list)
    assert isinstance(content["git_hash"], str)
    assert {"gpu_model", "gpu_uuids", "gpu_count", "cpu", "memory_gb"} <= content["hardware"].keys()
    assert content["packages"]["torch"] == torch.__version__
    assert content["packages"]["python"] == sys.version.split()[0]
    assert content["seed"] == 3
    assert content["model"]["class"] == "Sequential"
    assert content["model"]["parameters"] == 4 * 8 + 8 + 8 * 2 + 2
    assert content["model"]["trainable"] == 8 * 2 + 2
    assert content["dataset"] == {"name": "toy", "size": 10}
    assert content["config"] == {"lr": 0.1, "seed": 3}
    assert content["parent"] is None
    assert content.keys() >= {"git_dirty", "slurm"}


def test_a_configuration_is_enough(tracker: ConfigTracker) -> None:
    tracker.save_config({"lr": 0.1})
    content = tracker.load_config()
    assert (content["model"], content["dataset"], content["seed"]) == (None, {}, None)


@pytest.mark.parametrize(
    "config",
    [{"seed": 3}, {"trainer": {"seed": 3}}, {"training": {"seed": 3}}, {"trainer": {"lr": 1}, "seed": 3}],
)
def test_the_seed_is_found(tracker: ConfigTracker, config: dict[str, Any]) -> None:
    tracker.save_config(config)
    assert tracker.load_config()["seed"] == 3


class Mode(enum.Enum):
    FAST = 1


@dataclasses.dataclass
class Settings:
    lr: float = 0.1
    mode: Mode = Mode.FAST


@pytest.mark.parametrize(
    ("config", "written"),
    [
        (Settings(), {"lr": 0.1, "mode": "FAST"}),
        ({"inner": Settings()}, {"inner": {"lr": 0.1, "mode": "FAST"}}),
        (argparse.Namespace(lr=0.1), {"lr": 0.1}),
        (OmegaConf.create({"a": 1, "b": "${a}"}), {"a": 1, "b": 1}),
        ({"device": torch.device("cpu"), "dtype": torch.float32}, {"device": "cpu", "dtype": "torch.float32"}),
        ({"weights": torch.ones(2), "lr": np.float32(0.5)}, {"weights": [1.0, 1.0], "lr": 0.5}),
        ({"path": Path("a/b"), "betas": (0.9, 0.99), 3: None}, {"path": "a/b", "betas": [0.9, 0.99], "3": None}),
        ({"entropy": 2**127}, {"entropy": str(2**127)}),
        ({"loss": math.nan, "max": math.inf}, {"loss": None, "max": None}),
        (None, None),
    ],
)
def test_configurations_of_many_kinds(tracker: ConfigTracker, config: Any, written: Any) -> None:
    tracker.save_config(config)
    assert tracker.load_config()["config"] == written


def test_what_cannot_be_written_is_refused_with_its_place(tracker: ConfigTracker) -> None:
    with pytest.raises(UserError, match=r"config\.model\.layers\[1\] is function"):
        tracker.save_config({"model": {"layers": [1, test_configurations_of_many_kinds]}})
    assert not tracker.files.config.exists()


def test_the_model_inside_of_its_wrappers_is_described(tracker: ConfigTracker) -> None:
    tracker.save_config({}, nn.DataParallel(nn.Linear(2, 2)))
    assert tracker.load_config()["model"]["class"] == "Linear"


def test_secrets_are_masked_everywhere(tracker: ConfigTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "train.py", "wandb.api_key=hunter2", "--token", "hunter2", "lr=0.1"]
    )
    tracker.save_config(
        {"wandb": {"api_key": "hunter2"}, "list": [{"password": "hunter2"}], "max_tokens": 100},
        dataset_info={"hf_token": "hunter2", "name": "toy"},
        tracker={"secret": "hunter2"},
    )
    tracker.add_to_config(later={"token": "hunter2"})
    assert "hunter2" not in tracker.files.config.read_text()
    content = tracker.load_config()
    assert content["command"] == ["python", "train.py", "wandb.api_key=***", "--token", "***", "lr=0.1"]
    assert content["config"]["max_tokens"] == 100
    assert content["dataset"] == {"hf_token": "***", "name": "toy"}


def test_an_argument_that_is_no_utf_8_does_not_stop_a_run(
    tracker: ConfigTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", os.fsdecode(b"data/caf\xe9"), "naïve"])
    tracker.save_config({})
    assert tracker.load_config()["command"] == ["python", r"data/caf\udce9", "naïve"]


def test_fields_are_added_and_replaced_later(tracker: ConfigTracker) -> None:
    tracker.save_config({"lr": 0.1}, note="first")
    tracker.add_to_config(note="second", dataset={"size": 3})
    content = tracker.load_config()
    assert (content["note"], content["dataset"], content["config"]) == ("second", {"size": 3}, {"lr": 0.1})


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, "-C", folder, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_written_down_and_whether_it_was_changed(
    tracker: ConfigTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "-q")
    (repository / "train.py").write_text("lr = 0.1\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    monkeypatch.chdir(repository)

    def found() -> tuple[str, bool]:
        tracker.save_config({})
        content = tracker.load_config()
        return content["git_hash"], content["git_dirty"]

    commit = git(repository, "rev-parse", "HEAD")
    assert found() == (commit, False)
    (repository / "notes.txt").write_text("untracked files change nothing that ran")
    assert found() == (commit, False)
    (repository / "train.py").write_text("lr = 0.2\n")
    assert found() == (commit, True)


@pytest.mark.parametrize("there", ["no repository", "no commit", "no git"])
def test_outside_git_the_commit_is_unknown(
    tracker: ConfigTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    if there == "no commit":
        git(tmp_path, "init", "-q")
    if there == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    tracker.save_config({})
    content = tracker.load_config()
    assert (content["git_hash"], content["git_dirty"]) == ("unknown", None)


def test_results_json_has_every_field_of_the_contract(tracker: ConfigTracker) -> None:
    history = [{"epoch": 1, "step": 5, "train": {"loss": 0.5}, "test": {"loss": 0.6}, "diagnostics": {}}]
    path = tracker.save_results(
        final_metrics={"val_loss": torch.tensor(4.5), "perplexity": 90.0, "best_step": 8500},
        best_checkpoint=Path("checkpoints") / "checkpoint_step_8500.pt",
        generation_samples=["The theory of ...", "In the beginning ..."],
        training_history=history,
    )
    assert json.loads(path.read_text()) == {
        "experiment_id": "my_run",
        "training_history": history,
        "final_metrics": {"val_loss": 4.5, "perplexity": 90.0, "best_step": 8500},
        "best_checkpoint": "checkpoints/checkpoint_step_8500.pt",
        "generation_samples": ["The theory of ...", "In the beginning ..."],
    }
    assert tracker.load_results() == json.loads(path.read_text())


def test_the_last_line_of_a_training_loop(tracker: ConfigTracker) -> None:
    tracker.save_results({"val_loss": 0.5})
    assert tracker.load_results() == {
        "experiment_id": "my_run",
        "training_history": [],
        "final_metrics": {"val_loss": 0.5},
        "best_checkpoint": None,
        "generation_samples": [],
    }


def test_results_without_names_are_refused(tracker: ConfigTracker) -> None:
    with pytest.raises(UserError, match="final_metrics is of type float: give names and numbers"):
        tracker.save_results(0.5)  # type: ignore[arg-type]
    assert not tracker.files.results.exists()


def test_the_history_is_kept_by_who_does_not_give_one(tracker: ConfigTracker) -> None:
    tracker.save_results({}, training_history=[{"epoch": 1}])
    tracker.save_results({"val_loss": 0.5})
    assert tracker.load_results()["training_history"] == [{"epoch": 1}]


def test_nan_becomes_null(tracker: ConfigTracker) -> None:
    tracker.save_results({"val_loss": math.nan, "best": -math.inf}, training_history=[{"train": {"loss": math.nan}}])
    text = tracker.files.results.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert tracker.load_results()["final_metrics"] == {"val_loss": None, "best": None}


@pytest.mark.parametrize("load", ["load_config", "load_results"])
def test_what_is_not_there_or_broken_is_said_in_one_line(tracker: ConfigTracker, load: str) -> None:
    path = getattr(tracker.files, load.removeprefix("load_"))
    with pytest.raises(UserError, match=r"is not there: is .*my_run a run directory\?"):
        getattr(tracker, load)()
    path.write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        getattr(tracker, load)()
    path.write_text("[]")
    with pytest.raises(UserError, match="holds no JSON object"):
        getattr(tracker, load)()


def _read_until(path: Path, stop: Any, seen: Any) -> None:
    count, sizes = 0, set()
    while not stop.is_set():
        sizes.add(len(json.loads(path.read_bytes())["training_history"]))
        count += 1
    seen.put((count, sorted(sizes)))


def test_a_reader_never_sees_a_part_of_results_json(tracker: ConfigTracker) -> None:
    context = multiprocessing.get_context("fork")
    stop, seen = context.Event(), context.Queue()
    tracker.save_results({}, training_history=[])
    reader = context.Process(target=_read_until, args=(tracker.files.results, stop, seen))
    reader.start()
    for size in range(120):
        history = [{"epoch": epoch, "train": {"loss": 0.5}} for epoch in range(size % 7 * 100)]
        tracker.save_results({}, training_history=history)
    stop.set()
    count, sizes = seen.get(timeout=20)
    reader.join(timeout=20)
    assert reader.exitcode == 0
    assert count > 5
    assert len(sizes) > 1


def test_writers_in_several_threads_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    writers = [
        threading.Thread(target=lambda n=n: [write_json(path, {"n": [n] * n * 100}, durable=False) for _ in range(50)])
        for n in range(1, 5)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    values = json.loads(path.read_text())["n"]
    assert values == values[:1] * values[0] * 100
    assert list(tmp_path.iterdir()) == [path]
