"""Runs and snapshots for these tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from expkit.checkpoints import CheckpointManager
from expkit.experiment import RunDir
from expkit.snapshots import Observed, create

#: 2025-11-12 14:30:22, local time.
MOMENT = datetime(2025, 11, 12, 14, 30, 22).timestamp()


@dataclass(frozen=True)
class Event:
    kind: str = "loss_spike"
    reason: str = "loss_spike_37.8pct"


def best(loss: float) -> Event:
    return Event("best_model", f"best_model_loss_{loss}")


def save(run: RunDir, *steps: int, keep: int = 100) -> CheckpointManager:
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = CheckpointManager(run.root, keep_last_n=keep)
    for step in steps:
        manager.save_checkpoint(step, model, optimizer, [], {})
    return manager


def make_run(folder: Path, *steps: int) -> RunDir:
    run = RunDir(folder)
    run.root.mkdir(parents=True)
    run.config.write_text(json.dumps({"experiment_id": run.id, "overrides": []}))
    save(run, *steps)
    return run


def take(
    run: RunDir,
    *events: Event,
    step: int = 17500,
    time: float = MOMENT,
    loss: float = 1.0234,
    checkpoint: Path | None = None,
    safetensors: bool = False,
    history: Sequence[float] = (0.74, 0.73, 0.72, 0.71, 1.0234),
) -> Path | None:
    observed = Observed(step, time, loss, 58.3, history, 0.6987, 16800)
    return create(run, events or [Event()], observed, {"state": "running"}, checkpoint, safetensors)


def leftovers(run: RunDir) -> list[str]:
    return [path.name for path in run.snapshots.iterdir() if path.name.startswith(".")]
