"""What every tracker that can be selected must fulfil: found by its YAML file, so a new one needs no new test."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from expkit.trackers import Tracker
from tests.components import load, make, option_files
from tests.expkit.trackers.conftest import REPOSITORY

FILES = option_files("tracker")


def test_there_are_files() -> None:
    assert {"csv", "tensorboard", "trackio", "wandb"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_reads_like_the_constructor(file: Path, page: Path) -> None:
    tracker = make(page / file, "tracker", Tracker)
    assert tracker.requires is None or isinstance(tracker.requires, str)
    tracker.check()


LIFE = """
import importlib, json, math, sys, threading
from pathlib import Path
from expkit.record import Record
from expkit.trackers import Alert, Delivery, RunInfo

module, _, name = sys.argv[1].rpartition(".")
kind = getattr(importlib.import_module(module), name)
Path("run").mkdir()
for life, resumed_step in enumerate([0, 2]):
    tracker = kind(**json.loads(sys.argv[2]))
    delivery = Delivery({"it": tracker}, start_timeout=30)
    run = RunInfo(id="a", dir=Path("run"), project="p", config={"a": {"b": 1}}, resumed_step=resumed_step)
    before = delivery.where(run)
    delivery.start(run)
    for step in range(resumed_step + 1, resumed_step + 4):
        delivery.log(Record(step, 1, 1.7e9, {"a/b": step, "nan": math.nan, "run": math.inf, "_step": 1}))
        delivery.image("samples/grid", Path(sys.argv[3]), step)
        for level in ("INFO", "WARNING", "CRITICAL"):
            delivery.alert(Alert("title " * 30, "text", level, step))
    delivery.finish({"final/loss": 1.0}, failed=bool(life))
    print(delivery.failures(), before, [type(place).__name__ for place in delivery.where(run)])
print(json.loads(Path("run/logs/delivery.json").read_text()))
"""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_tracker_lives_through_a_run_and_a_resume_in_silence(
    file: Path, page: Path, python: Callable[..., tuple[str, str]], picture: Path
) -> None:
    kind, arguments = load(page / file)
    target = f"{kind.__module__}.{kind.__name__}"
    path = os.pathsep.join([str(REPOSITORY), str(page)])
    stdout, stderr = python(LIFE, target, json.dumps(arguments), picture, TRACKIO_DIR="db", PYTHONPATH=path)
    *lives, delivered = stdout.splitlines()
    place = ["str"] if kind.where is not Tracker.where else []  # there is nothing to look at before it has begun
    assert lives == [f"{{}} [] {place}"] * 2
    assert delivered == "{'a': {'it': {'step': 5, 'image': 5, 'alert': 5, 'finished': True}}}"
    assert stderr == ""
