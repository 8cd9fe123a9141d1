"""What each tool holds of a run, read with its own reader, and a run to send."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from expkit.config_tracker import ConfigTracker
from expkit.detectors.base import Event, Severity
from expkit.experiment import create_experiment_directory
from expkit.journal import Journal, read_journal
from expkit.record import RESERVED, Record
from expkit.status import StatusFile
from expkit.wandb_data import read_offline

__all__ = ["journal_of", "make_run", "tensorboard", "trackio", "wandb"]

#: step -> metric -> (value, seconds since 1970)
Stored = dict[int, dict[str, tuple[float, float]]]


def make_run(outputs: Path, name: str, steps: range = range(1, 41), project: str = "replayed") -> Path:
    """Return a run directory as a run leaves it that was trained without trackers."""
    root = create_experiment_directory(outputs, name)["root"]
    about = {"project": project, "name": "a name", "group": "g", "tags": ["x", "y"], "notes": "n", "outputs": "o"}
    ConfigTracker(root).save_config({"run": about, "optimizer": {"lr": 0.1}, "tracker": {}})
    with Journal(root / "logs" / "metrics.jsonl") as journal:
        for step in steps:
            metrics = {"loss": 1.0 / step, "odd": math.nan if step % 7 == 0 else float(step)}
            if step == steps[-1]:
                metrics["final/best_loss"] = 0.5
            journal.write(Record(step, 1 + step // 20, 1_700_000_000.5 + step, metrics))
    for step in (10, 40):
        Image.new("RGB", (8, 8), (step, 0, 0)).save(root / "visualizations" / f"samples_step_{step}.png")
    event = Event("robust", "loss_spike", Severity.WARNING, 25, "loss rose by 40 %")
    line = {"step": event.step, "kind": event.kind, "severity": event.severity.value, "message": event.message}
    (root / "logs" / "events.jsonl").write_text(json.dumps(line) + "\n")
    status = StatusFile(root / "status.json", dict)
    status.start()
    status.stop("finished")
    return root


def journal_of(run: Path) -> Stored:
    """Return what the tools should hold."""
    return {
        entry["step"]: {name: (value, entry["time"]) for name, value in entry.items() if name not in RESERVED}
        for entry in read_journal(run / "logs" / "metrics.jsonl")
    }


def _number(value: Any) -> float:
    words = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    return words[value] if isinstance(value, str) else float(value)


def trackio(query: Any, folder: Path, run_id: str) -> tuple[Stored, dict[str, int]]:
    """Return the rows of a run in the only database of a folder, and how many pictures and alerts there are."""
    rows = query(folder, f"select step, metrics, timestamp from metrics where run_name = '{run_id}' order by id")
    stored: Stored = {}
    pictures = 0
    for step, text, when in rows:
        row = json.loads(text)
        seconds = datetime.fromisoformat(when).timestamp()
        for name, value in row.items():
            if isinstance(value, dict):
                pictures += 1
            elif name != "epoch":
                assert name not in stored.setdefault(step, {}), (step, name)
                stored[step][name] = (_number(value), seconds)
    ((alerts,),) = query(folder, f"select count(*) from alerts where run_name = '{run_id}'")
    return stored, {"images": pictures, "alerts": alerts}


def tensorboard(events: Any, folder: Path) -> tuple[Stored, dict[str, int]]:
    """Return what TensorBoard reads in a folder."""
    found = events(folder)
    stored: Stored = {}
    for name in set(found.Tags()["scalars"]) - {"epoch"}:
        for event in found.Scalars(name):
            assert name not in stored.setdefault(event.step, {}), (event.step, name)
            stored[event.step][name] = (event.value, event.wall_time)
    pictures = sum(len(found.Images(name)) for name in found.Tags()["images"])
    alerts = sum(len(found.Tensors(name)) for name in found.Tags()["tensors"] if name.startswith("alerts/"))
    return stored, {"images": pictures, "alerts": alerts}


def wait_for_wandb(folder: Path) -> None:
    """Wait until W&B has written the runs below `folder`: its process may take some milliseconds more than ours."""
    for file in folder.rglob("wandb/offline-run-*/run-*.wandb"):
        deadline = time.monotonic() + (0 if file.with_name(f"{file.name}.synced").exists() else 2)
        while read_offline(file).state == "unfinished" and time.monotonic() < deadline:
            time.sleep(0.005)


def wandb(run: Path) -> tuple[Stored, dict[str, int]]:
    """Return what W&B's own reader finds in the runs of a directory that are to be uploaded."""
    stored: Stored = {}
    pictures = alerts = 0
    for file in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        for entry in map(json.loads, done.stdout.splitlines()):
            alerts += entry["type"] == "alert"
            if entry["type"] != "history":
                continue
            row = dict(entry["history"]["item"])
            when = row.pop("_timestamp")
            for name, value in row.items():
                folder, _, inside = name.rpartition(".")
                pictures += inside == "_type"
                if not folder and not name.startswith("_") and name != "epoch":
                    assert name not in stored.setdefault(entry["history"]["step"]["num"], {})
                    stored[entry["history"]["step"]["num"]][name] = (_number(value), when)
    return stored, {"images": pictures, "alerts": alerts}
