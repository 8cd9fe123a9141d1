"""What is left when a run is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

RUN = """
import sys, time
from pathlib import Path
from expkit.record import Record
from expkit.trackers import Delivery, RunInfo
from expkit.trackers.tensorboard import TensorBoardTracker
from expkit.trackers.trackio import TrackioTracker
from expkit.trackers.wandb import WandbTracker

trackers = {"wandb": WandbTracker(), "trackio": TrackioTracker(), "tensorboard": TensorBoardTracker()}
delivery = Delivery(trackers, start_timeout=30)
delivery.start(RunInfo(id="run", dir=Path("run"), project="test"))
for step in range(1, int(sys.argv[1]) + 1):
    delivery.log(Record(step, 0, time.time(), {"loss": 1.0 / step}))
    print(step, time.time(), flush=True)
    time.sleep(0.02)
time.sleep(60)
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


def test_a_killed_run_loses_the_last_moment_at_most(
    start_python, wandb_files, trackio_query, tensorboard_events, tmp_path
):
    process = start_python(RUN, 100_000, TRACKIO_DIR="db")
    process.stdout.readline()
    time.sleep(2.5)
    killed = kill_all(process)
    printed = [line.split() for line in process.communicate(timeout=30)[0].splitlines()]
    safe = max(int(step) for step, when in printed if float(when) < killed - 1.5)
    assert safe > 20

    (file,) = wandb_files(tmp_path / "run")
    rows = {step: row["loss"] for step, row in file.rows.items()}
    stored = trackio_query(tmp_path / "db", "SELECT step, metrics FROM metrics ORDER BY id")
    for values in (rows, {step: json.loads(text)["loss"] for step, text in stored}):
        assert len(values) >= safe
        assert values == {step: 1.0 / step for step in range(1, len(values) + 1)}
    assert len(stored) == len(set(stored))

    # Nothing is kept back here: what was delivered, a moment after it was sent, is there.
    events = tensorboard_steps(tensorboard_events(tmp_path / "run" / "tensorboard"))
    assert list(events) == list(range(1, len(events) + 1))
    assert len(events) >= safe

    watermarks = json.loads((tmp_path / "run" / "logs" / "delivery.json").read_text())["run"]
    assert set(watermarks) == {"wandb", "trackio", "tensorboard"}
    assert all(entry["step"] > safe - 60 for entry in watermarks.values())


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
