"""What real files look like: a run directory that a short run has made, and files of tools and of other trainers."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np

from tests.expkit.wandb_data.log_writer import end, gpu_system, history, run, system, write_log

__all__ = ["make_corpus"]

_TYPED = (
    *("task=denoise", "task.model.hidden=8", "run.id=run", "run.min_free_gb=0", "plots=[]", "trainer.device=cpu"),
    *("diagnostics=blob,svd", "detectors=svd_switch,best_model", "trainer.max_steps=24", "trainer.log_interval=2"),
    *("trainer.eval_interval=8", "trainer.batch_size=32", "checkpoint.save_interval=12", "trainer.threads=1"),
)

_TEXT = """Experiment: baseline (lr=0.1, seed=1)
config:
  learning rate: 1e-3
  batch size = 1,024
  use_amp: true

[12:00:01] [INFO] Step 100/5000: loss 6.5, val_loss=6.7, accuracy: 12.5%
Epoch 2, Step 200: loss 5.1 | ppl 1_234.5
## second
Final Validation Loss: **3.21**
- best val loss = 3.0
"""

_LOG = """2026-11-22 12:00:00 INFO step 10 | loss 0.5 | grad_norm: 1.2e-3
{'loss': 0.25, 'global_step': 20, 'epoch': 1.5}
{"step": 30, "train": {"loss": 0.125, "lr": 1e-4}, "svd/block0.attn.c_q/principal_alignment": 0.31, "time": 1.7e9}
Step 40 | block0.attn.c_q
  principal_alignment: 0.3  minor_alignment=0.1  subspace_angle = 12.5  r: 7  mode=LOW-RANK
encoder FULL -> LOW-RANK r=7 (clobbering: principal_alignment 0.48 > 0.4); decoder FULL -> LOW-RANK (x: r 7)
[block0] SWITCHED TO LOW-RANK (r=8)
 20%|##        | 20/200 [00:10<01:30, 1.97it/s]
wandb: svd/encoder/subspace_angle 12.5
"""

_YAML = """_target_: expkit.detectors.loss_spike.LossSpike
threshold: 0.3
window: 10
respond: [alert]
metric: &metric train_loss
"""

_STATUS = {"current_step": 120, "latest_metrics": {"loss": 0.5, "val_accuracy": "91.5%"}, "timestamp": 1.7e9}

_EXPERIMENT = {
    "task": "denoise",
    "training": {"batch_size": 64, "epochs": 3, "enable_diagnostics": True, "diagnostic_sample_size": 500},
    "optimizer": {"option": "sgd", "lr": 0.1},
    "save_plots": False,
    "tracker": ["tensorboard"],
    "run": {"name": "mine", "tags": ["a", "b"]},
}


def make_corpus(folder: Path) -> Path:
    """Return `folder`, with a run in `folder / "run"` and other files beside it. It takes a few seconds."""
    folder.mkdir(exist_ok=True)
    _train(folder)
    shutil.rmtree(folder / "run" / ".hydra")
    steps = [history(step, {"train_loss": 1 / step, "gpu/0/compute_util": 50.0, "a": {"b": [1]}}) for step in (1, 2)]
    place = folder / "run" / "wandb" / "offline-run-20261122_120000-abc" / "run-abc.wandb"
    write_log(
        place, [run("abc", "named", {"lr": 0.1, "o": {"x": 1}}), *steps, system(1.7e9, gpu_system(0, 3.0)), end()]
    )
    for name, text in (
        *(("results.txt", _TEXT), ("training.log", _LOG), ("detectors/mine.yaml", _YAML)),
        *(("training_status.json", json.dumps(_STATUS)), ("experiment.json", json.dumps(_EXPERIMENT))),
        ("overrides.txt", "optimizer.lr=0.1\ntracker=wandb,trackio\n+a.b=[1,{c:2}]\n~d\ntask/model@x:y='q \"r'\n"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    _others(folder)
    return folder


def _train(folder: Path) -> None:
    from train.cli.main import main

    with mock.patch.object(sys, "argv", list(sys.argv)), contextlib.redirect_stdout(None):
        code = main([*_TYPED, f"run.outputs={folder}", "tracker=tensorboard"])
    assert code == 0


def _others(folder: Path) -> None:
    """Make a sweep, a folder of shards, and what monitors and other trainers leave."""
    import torch

    from expkit.checkpoint_folder import METADATA, STATE, write_manifest
    from expkit.checkpoints.dcp import write_tensors
    from expkit.checkpoints.storage import REQUIRED
    from expkit.files import digest
    from expkit.journal import read_journal
    from expkit.plots.curve import Curve
    from expkit.reading.index import Index, save_index
    from expkit.watch.state import write_state

    root = folder / "run"
    shutil.copy(root / "logs" / "events.jsonl", root / "logs" / "watch_events.jsonl")
    journal = root / "logs" / "metrics.jsonl"
    entries = list(read_journal(journal))
    curves = {"train_loss": Curve([e["step"] for e in entries], [e["train_loss"] for e in entries])}
    place = {"offset": journal.stat().st_size, "before": ""}
    assert save_index(journal, Index(place, len(entries), 0, {"train_loss": 1.0}, [(2, 1.7e9)], curves))
    write_state(root / "logs" / "watch_state.json", {"source": {"offset": 5}, "detectors": {"a": [{"n": 1.5}, None]}})
    (root / "visualizations" / ".earlier").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(root / "visualizations" / ".earlier" / "blob_step_8.npz", points=np.arange(6.0).reshape(3, 2))

    shards = folder / "checkpoint_step_3"
    shards.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one process that is no group
        notes = write_tensors(shards, {"model_state_dict.a": torch.arange(6.0)}, None, lambda: False)
    state = {**dict.fromkeys(REQUIRED), "step": 3, "model_state_dict": {"a": torch.empty(6, device="meta")}}
    torch.save(state, shards / STATE)
    for name in (STATE, METADATA):
        notes[name] = {"bytes": (shards / name).stat().st_size, "sha256": digest(shards / name)}
    write_manifest(shards, 3, 1, notes)

    sweep = folder / "sweep"
    (sweep / "jobs").mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"host": "h", "pid": 1, "overrides": ["a=1,2"], "suffix": "abc"}))
    job = {
        "overrides": ["a=1"],
        "state": "failed",
        "run": "../run",
        "error": "e",
        "pid": 1,
        "host": "h",
        "started": 1.0,
    }
    (sweep / "jobs" / "0.json").write_text(json.dumps(job))
    line = {"kind": "local", "time": 1.7e9, "host": "h", "pid": 1, "jobs": {"0": None, "1": "12_1"}}
    (sweep / "submissions.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({**line, "kind": "cancelled"}) + "\n")

    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(8)
    index = {"weight_map": {"w": "model.safetensors"}, "metadata": {"total_size": 8}}
    (folder / "foreign").mkdir()
    (folder / "foreign" / "model.safetensors").write_bytes(weights)
    (folder / "foreign" / "model.safetensors.index.json").write_text(json.dumps(index))
    _database(folder / "trackio" / "project.db")


def _database(path: Path) -> None:
    path.parent.mkdir()
    columns = "id INTEGER PRIMARY KEY, run_id TEXT, timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"CREATE TABLE metrics ({columns})")
        rows = [(str(step), step, json.dumps({"loss": 1 / step, "a": {"b": 2}})) for step in (1, 2, 3)]
        question = "INSERT INTO metrics (run_id, run_name, timestamp, step, metrics) VALUES ('run', 'run', ?, ?, ?)"
        database.executemany(question, [(f"2026-11-22T12:00:0{each}", step, text) for each, step, text in rows])
        database.commit()
