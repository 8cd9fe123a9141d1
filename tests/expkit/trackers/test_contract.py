"""What every tracker that can be selected must fulfil: found by its YAML file, so a new one needs no new test."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from expkit.trackers import Tracker

FILES = sorted((Path(__file__).resolve().parents[3] / "conf" / "tracker").glob("*.yaml"))


def load(file: Path) -> tuple[type[Tracker], dict[str, Any]]:
    """The class that a file names, and its arguments; interpolations are left to the run's own values."""
    node = yaml.safe_load(file.read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name), {
        key: None if isinstance(value, str) and value.startswith("${") else value for key, value in node.items()
    }


def test_there_are_files():
    assert {"tensorboard", "trackio", "wandb"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_reads_like_the_constructor(file):
    assert file.read_text().splitlines()[0] == f"# @package tracker.{file.stem}"
    kind, arguments = load(file)
    assert issubclass(kind, Tracker) and kind is not Tracker and kind.requires
    parameters = inspect.signature(kind).parameters
    assert arguments == {name: parameter.default for name, parameter in parameters.items()}
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())
    kind(**arguments).check()


LIFE = """
import importlib, json, math, sys, threading
from pathlib import Path
from expkit.record import Record
from expkit.trackers import Alert, Delivery, RunInfo

module, _, name = sys.argv[1].rpartition(".")
kind = getattr(importlib.import_module(module), name)
for life, resumed_step in enumerate([0, 2]):
    tracker = kind(**json.loads(sys.argv[2]))
    delivery = Delivery({"it": tracker}, start_timeout=30)
    run = RunInfo(id="a", dir=Path("run"), project="p", config={"a": {"b": 1}}, resumed_step=resumed_step)
    places = [tracker.where(run)]
    delivery.start(run)
    for step in range(resumed_step + 1, resumed_step + 4):
        delivery.log(Record(step, 1, 1.7e9, {"a/b": step, "nan": math.nan, "run": math.inf, "_step": 1}))
        delivery.image("samples/grid", Path(sys.argv[3]), step)
        for level in ("INFO", "WARNING", "CRITICAL"):
            delivery.alert(Alert("title " * 30, "text", level, step))
    delivery.finish({"final/loss": 1.0}, failed=bool(life))
    places.append(tracker.where(run))
    print(delivery.failures(), [type(place).__name__ for place in places])
print(json.loads(Path("run/logs/delivery.json").read_text()))
"""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_tracker_lives_through_a_run_and_a_resume_in_silence(file, python, picture):
    kind, arguments = load(file)
    target = f"{kind.__module__}.{kind.__name__}"
    stdout, stderr = python(LIFE, target, json.dumps(arguments), picture, TRACKIO_DIR="db")
    life = "{} ['NoneType', 'str']"  # there is nothing to look at before it has begun
    assert stdout.splitlines() == [life, life, "{'a': {'it': 5}}"]
    assert stderr == ""
