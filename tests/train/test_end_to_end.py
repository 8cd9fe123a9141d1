"""The main job, on real data, with the real trackers: what it leaves behind is what it measured."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from expkit.journal import read_journal
from expkit.record import RESERVED
from tests.conftest import Train, train_command, train_environment


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one run, `outputs/run`, of the command that the README begins with."""
    folder = tmp_path_factory.mktemp("end_to_end")
    trackers = "tracker=wandb,trackio,tensorboard"
    arguments = (trackers, "diagnostics=blob", "run.id=run", "trainer.max_epochs=5", "run.tags=[a,b]")
    done = subprocess.run(
        train_command(folder / "outputs", *arguments),
        cwd=folder,
        env=train_environment(folder),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    yield folder


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    return place / "outputs" / "run"


def metrics_of(run: Path) -> dict[int, dict[str, float]]:
    return {
        entry["step"]: {name: value for name, value in entry.items() if name not in RESERVED}
        for entry in read_journal(run / "logs" / "metrics.jsonl")
    }


def same(one: Any, other: Any) -> bool:
    return one == other or (isinstance(one, float) and math.isnan(one) and str(other).lower() == "nan")


def test_trackio_holds_the_journal_step_by_step(place: Path, run: Path) -> None:
    database = sqlite3.connect(place / "trackio" / "expkit.db")
    rows = database.execute("select step, metrics from metrics where run_name = 'run' order by step").fetchall()
    journal = metrics_of(run)
    stored: dict[int, dict[str, Any]] = {}
    for step, text in rows:  # pictures are rows of their own
        stored.setdefault(step, {}).update(json.loads(text))
    assert sorted(stored) == sorted(journal)
    for step, metrics in journal.items():
        assert all(same(value, stored[step][name]) for name, value in metrics.items()), (step, stored[step])


def test_the_tensorboard_files_hold_the_journal_step_by_step(run: Path) -> None:
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    stored: dict[int, dict[str, float]] = {}
    for name in set(found.Tags()["scalars"]) - {"epoch"}:
        for event in found.Scalars(name):
            stored.setdefault(event.step, {})[name] = event.value
    journal = metrics_of(run)
    assert sorted(stored) == sorted(journal)
    for step, metrics in journal.items():
        assert stored[step].keys() == metrics.keys()
        assert all(same(float(np.float32(value)), stored[step][name]) for name, value in metrics.items()), step


def test_the_wandb_file_holds_the_journal_step_by_step(run: Path) -> None:
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run([wandb, "leet", "inspect", "--json", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rows = [entry["history"] for entry in map(json.loads, done.stdout.splitlines()) if entry["type"] == "history"]
    stored = {row["step"]["num"]: row["item"] for row in rows}
    # Pictures of the last step come in a row after it, since no record follows that they could ride on.
    assert sorted(step for step, row in stored.items() if "train_loss" in row) == sorted(metrics_of(run))
    for step, metrics in metrics_of(run).items():
        assert all(same(value, stored[step][name]) for name, value in metrics.items()), (step, metrics)


def test_the_journal_has_every_step_and_the_published_names(run: Path) -> None:
    entries = list(read_journal(run / "logs" / "metrics.jsonl"))
    assert sum(len(entry["series"]["train_loss"]) for entry in entries) == 5 * 23
    names = set().union(*entries)
    assert {"train_loss", "val_loss", "learning_rate", "samples_per_sec", "final/best_val_loss"} <= names
    assert {"blob/weight_correlation", "blob/n_clusters_dbscan", "blob/silhouette_score"} <= names
    assert sum("final/best_val_loss" in entry for entry in entries) == 1


def test_it_learns(run: Path) -> None:
    psnr = [entry["val_psnr"] for entry in read_journal(run / "logs" / "metrics.jsonl") if "val_psnr" in entry]
    noisy = -10 * math.log10(0.1)
    assert psnr[-1] > noisy + 5, "5 dB better than doing nothing"


def test_results_hold_one_entry_per_epoch_as_the_guide_shows(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    history = results["training_history"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5]
    assert {"loss", "scaled_loss"} <= history[0]["train"].keys()
    assert {"loss", "scaled_loss"} <= history[0]["test"].keys()
    guide = "weight_correlation encoder_std decoder_std encoder_mean decoder_mean n_clusters_dbscan silhouette_score"
    guide += " cluster_centers n_noise_points computation_time_ms n_pairs_analyzed"
    assert set(guide.split()) <= history[0]["diagnostics"].keys()
    assert {"val_loss", "best_val_loss", "best_step", "total_time_seconds", "samples_per_second"} <= results[
        "final_metrics"
    ].keys()
    assert (run / results["best_checkpoint"]).is_file()
    assert all((run / sample).is_file() for sample in results["generation_samples"])
    assert results["generation_samples"] == ["visualizations/denoised_step_115.png"]


def test_config_says_everything_that_ran(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    wanted = "experiment_id timestamp command git_hash git_dirty hardware packages seed model dataset config parent"
    assert set(wanted.split()) <= config.keys()
    assert config["command"][1:3] == ["-m", "train"]
    assert config["model"] | {"children": None} == {
        "class": "TwoLayerNet",
        "parameters": 33088,
        "trainable": 33088,
        "children": None,
    }
    assert {"gpu_model", "gpu_uuids", "gpu_count", "cpu", "memory_gb"} <= config["hardware"].keys()
    assert config["packages"]["torch"] == torch.__version__
    assert config["dataset"]["name"] == "DigitsData"
    assert config["config"]["run"]["name"] == "denoise_two_layer_net_adam"


def test_status_is_finished(run: Path) -> None:
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"], status["epoch"]) == ("finished", 115, 5)
    assert status["metrics"]["val_loss"] > 0
    assert status["trackers"] == {}, "no tracker had trouble"


def test_files_have_the_names_that_people_expect(run: Path) -> None:
    for name in (".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml", "logs/training.log"):
        assert (run / name).is_file(), name
    assert (run / "checkpoints" / "checkpoint_latest.pt").resolve().name == "checkpoint_step_115.pt"
    assert (run / "checkpoints" / "checkpoint_best.pt").exists()
    for picture in ("training_dynamics", "denoised"):
        data = (run / "visualizations" / f"{picture}_step_115.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 5000


def test_a_checkpoint_holds_everything_and_loads_safely(run: Path) -> None:
    saved = torch.load(run / "checkpoints" / "checkpoint_latest.pt", weights_only=True)
    wanted = "model_state_dict optimizer_state_dict step loss_history config scheduler_state_dict scaler_state_dict"
    wanted += " rng_state sampler_state detector_state journal_state"
    assert set(wanted.split()) <= saved.keys()
    assert saved["step"] == 115


def test_it_says_what_to_look_at_next(place: Path, run: Path) -> None:
    said = (place / "stdout").read_text()
    for words in (str(run / "results.json"), "expkit dashboard expkit", f"wandb leet {run}/wandb", f"resume={run}"):
        assert words in said


def test_secrets_reach_no_file_of_the_run(train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    chain = ("+service.login=${oc.env:MY_TOKEN}", "+service.url=https://me:${service.login}@host")
    secrets = (*chain, "+wandb_token=hunter2")
    train("debug=smoke", "tracker=wandb,trackio,tensorboard", "run.id=run", *secrets)
    text = (outputs / "run" / "config.json").read_text()
    assert "${oc.env:MY_TOKEN}" in text
    written = [path for path in outputs.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if b"hunter2" in path.read_bytes()] == []
