"""W&B's service process may die in the middle of a run: the tracker goes on with another one, and nothing is lost."""

from __future__ import annotations

import json
import time

RUN = """
import os, signal, sys, time
from pathlib import Path
import expkit.trackers.sender as sender
from expkit.journal import Journal
from expkit.record import Record
from expkit.trackers import Delivery, RunInfo
from expkit.trackers.wandb import WandbTracker

sender._FIRST_PAUSE = 0.05
run = RunInfo(id="run", dir=Path("run"), project="test")
Path("run/logs").mkdir(parents=True)
journal = Journal("run/logs/metrics.jsonl")
delivery = Delivery({"wandb": WandbTracker(system_metrics=False)}, start_timeout=30)
delivery.start(run)
for step in range(1, 61):
    record = Record(step, 0, time.time(), {"loss": 1.0 / step})
    journal.write(record)
    began = time.perf_counter()
    delivery.log(record)
    assert time.perf_counter() - began < 0.1
    if step == 30:
        time.sleep(0.8)
        children = [int(child) for path in Path(f"/proc/{os.getpid()}/task").glob("*/children")
                    for child in path.read_text().split()]
        (service,) = [child for child in children if "wandb-core" in Path(f"/proc/{child}/cmdline").read_text()]
        os.kill(service, signal.SIGKILL)
    time.sleep(0.01)
began = time.perf_counter()
delivery.finish({"final/loss": 1.0})
assert time.perf_counter() - began < 25
print(delivery.failures())
print(Path("run/logs/delivery.json").read_text())
"""


def test_a_service_process_that_is_killed_costs_nothing(python, wandb_files, tmp_path):
    stdout, stderr = python(RUN)
    failures, delivered = stdout.split("\n", 1)
    trouble = eval(failures)["wandb"]
    assert trouble["undelivered"] == 0 and trouble["failures"] >= 1
    assert json.loads(delivered) == {"run": {"wandb": {"step": 60, "finished": True}}}
    rows = {step: row["loss"] for file in wandb_files(tmp_path / "run") for step, row in file.rows.items()}
    assert rows == {step: 1.0 / step for step in range(1, 61)}
    assert sum(len(file.rows) for file in wandb_files(tmp_path / "run")) == 60  # none twice
    assert stderr.count("tracker wandb: log() failed") == 1 and "Traceback" not in stderr


HANG = """
import os, signal, sys, time
from pathlib import Path
from expkit.record import Record
from expkit.trackers import Delivery, RunInfo
from expkit.trackers.wandb import WandbTracker

delivery = Delivery({"wandb": WandbTracker(system_metrics=False)}, start_timeout=30, finish_timeout=1)
delivery.start(RunInfo(id="run", dir=Path("run"), project="test"))
delivery.log(Record(1, 0, time.time(), {"loss": 1.0}))
time.sleep(0.5)
children = [int(child) for path in Path(f"/proc/{os.getpid()}/task").glob("*/children")
            for child in path.read_text().split()]
(service,) = [child for child in children if "wandb-core" in Path(f"/proc/{child}/cmdline").read_text()]
os.kill(service, signal.SIGSTOP)
delivery.log(Record(2, 0, time.time(), {"loss": 0.5}))
delivery.finish()
print(time.time())
"""


def test_a_service_process_that_hangs_does_not_hold_up_the_exit(python):
    stdout, stderr = python(HANG)
    assert time.time() - float(stdout) < 10
    assert "tracker wandb: abandoned in finish() after 1 s" in stderr and "Traceback" not in stderr
