"""What is left when a run is killed in the middle."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from expkit.journal import read_journal

RUN = """
import sys, time
from pathlib import Path
from expkit.config_tracker import ConfigTracker
from expkit.journal import Journal
from expkit.record import Record
from expkit.trackers import Delivery, RunInfo
from expkit.trackers.tensorboard import TensorBoardTracker
from expkit.trackers.trackio import TrackioTracker
from expkit.trackers.wandb import WandbTracker

Path("run/logs").mkdir(parents=True)
config = {"run": {"project": "test"}, "tracker": {"wandb": {}, "trackio": {}, "tensorboard": {}}}
ConfigTracker("run").save_config(config)
trackers = {"wandb": WandbTracker(), "trackio": TrackioTracker(), "tensorboard": TensorBoardTracker()}
delivery = Delivery(trackers, start_timeout=30)
journal = Journal("run/logs/metrics.jsonl")
delivery.start(RunInfo(id="run", dir=Path("run").absolute(), project="test"))
for step in range(1, int(sys.argv[1]) + 1):
    record = Record(step, 0, time.time(), {"loss": 1.0 / step})
    journal.write(record)
    delivery.log(record)
    print(step, time.time(), flush=True)
    time.sleep(0.02)
time.sleep(60)
"""

#: One process, as each takes seconds to import all trackers. What the first replay has left is kept as `once`.
REPLAY_TWICE = """
import shutil
from expkit.cli.main import main

assert main(["replay", "run"]) == 0
for folder in ("run", "db"):
    shutil.copytree(folder, f"once/{folder}", symlinks=True)
assert main(["replay", "run"]) == 0
"""


def kill_all(process):
    """Kill a process and its children, W&B's service among them: what the out-of-memory killer and SLURM do."""
    for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
        for child in path.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    process.kill()
    return time.time()


def tensorboard_steps(reader):
    return {event.step: event.value for event in reader.Scalars("loss")}


def test_a_killed_run_loses_the_last_second_at_most_and_a_replay_brings_it_back(
    start_python, python, wandb_files, trackio_query, tensorboard_events, tmp_path
):
    process = start_python(RUN, 100_000, TRACKIO_DIR="db")
    process.stdout.readline()
    time.sleep(2.5 + 0.5 * random.random())
    killed = kill_all(process)
    printed = [line.split() for line in process.communicate(timeout=30)[0].splitlines()]
    safe = max(int(step) for step, when in printed if float(when) < killed - 1.0)
    assert safe > 20

    def stored(place=tmp_path):
        """Return what each tool holds, as pairs of step and loss."""
        wandb = [(step, row["loss"]) for file in wandb_files(place / "run") for step, row in file.rows.items()]
        rows = trackio_query(place / "db", "SELECT step, metrics FROM metrics ORDER BY id")
        events = tensorboard_events(place / "run" / "tensorboard").Scalars("loss")
        return {
            "wandb": wandb,
            "trackio": [(step, json.loads(text)["loss"]) for step, text in rows],
            "tensorboard": [(event.step, event.value) for event in events],
        }

    for name, pairs in stored().items():
        assert [step for step, _ in pairs] == list(range(1, len(pairs) + 1)), name
        assert all(loss == pytest.approx(1.0 / step) for step, loss in pairs), name
        assert len(pairs) >= safe, name

    watermarks = json.loads((tmp_path / "run" / "logs" / "delivery.json").read_text())["run"]
    assert set(watermarks) == {"wandb", "trackio", "tensorboard"}
    assert all(entry["step"] > safe - 60 for entry in watermarks.values())

    python(REPLAY_TWICE, TRACKIO_DIR="db")
    steps = [entry["step"] for entry in read_journal(tmp_path / "run" / "logs" / "metrics.jsonl")]
    for place in (tmp_path / "once", tmp_path):
        for name, pairs in stored(place).items():
            assert [step for step, _ in pairs] == steps, (name, place)


def test_the_last_record_before_a_long_pause_is_kept(
    start_python, wandb_files, trackio_query, tensorboard_events, tmp_path
):
    process = start_python(RUN, 3, TRACKIO_DIR="db")
    assert [process.stdout.readline().split()[0] for _ in range(3)] == ["1", "2", "3"]
    time.sleep(1.5)
    kill_all(process)
    process.wait(timeout=30)
    (file,) = wandb_files(tmp_path / "run")
    assert list(file.rows) == [1, 2, 3]
    assert trackio_query(tmp_path / "db", "SELECT step FROM metrics ORDER BY id") == [(1,), (2,), (3,)]
    assert list(tensorboard_steps(tensorboard_events(tmp_path / "run" / "tensorboard"))) == [1, 2, 3]
