"""Every real tracker, in every call, when it raises once, raises always, blocks for ever, or is slow: training does not
notice, the tracker beside it gets everything, and what was not delivered is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

LIFE = """
import importlib, json, os, sys, threading, time
from pathlib import Path

import expkit.trackers.sender as sender
from expkit.journal import Journal
from expkit.record import Record
from expkit.trackers import Alert, Delivery, RunInfo
from tests.expkit.trackers.memory_tracker import Memory

sender._FIRST_PAUSE = 0.02
module, _, name = sys.argv[1].rpartition(".")
kind = getattr(importlib.import_module(module), name)
picture = Path(sys.argv[2])


def faulty(call, fault, reached):
    made = kind()
    real, tries, log = getattr(made, call), [], made.log

    def logged(record):
        log(record)
        if record.step == 30:
            reached.set()

    def replaced(*args):
        tries.append(1)
        if fault == "blocks":
            reached.set()
            threading.Event().wait()
        if fault == "slow":
            time.sleep(0.01)
        if fault == "raises" or (fault == "raises once" and len(tries) == 1):
            raise ConnectionResetError("gone")
        return real(*args)

    if call == "finish":
        made.log = logged  # which has to be done before it
    setattr(made, call, replaced)
    return made


def life(number, call, fault):
    run = RunInfo(id=f"run{number}", dir=Path(f"run{number}").absolute(), project="p", config={"a": 1})
    (run.dir / "logs").mkdir(parents=True)
    good = Memory()
    bound = 0.3 if fault == "blocks" else 20.0
    reached = threading.Event()
    delivery = Delivery({"it": faulty(call, fault, reached), "good": good}, finish_timeout=bound)
    took = []
    with Journal(run.dir / "logs" / "metrics.jsonl") as journal:
        delivery.start(run)
        for step in range(1, 31):
            record = Record(step, 1, time.time(), {"loss": 1.0 / step})
            journal.write(record)
            began = time.perf_counter()
            delivery.log(record)
            if step == 10:
                delivery.image("samples", picture, step)
                delivery.alert(Alert("spike", "text", "WARNING", step))
            took.append(time.perf_counter() - began)
    if fault == "blocks":
        reached.wait(60)  # a slow machine opens a tracker for longer than that bound
    began = time.perf_counter()
    delivery.finish({"final/loss": 1.0})
    ended = time.perf_counter() - began
    others = [call for call, *_ in good.got]
    said = {
        **{"call": call, "fault": fault, "log": sorted(took)[15], "end": ended, "bound": bound},
        **{"good": good.steps == list(range(1, 31)) and others.count("finish") == 1, "trouble": delivery.failures()},
        "delivered": json.loads((run.dir / "logs" / "delivery.json").read_text())[run.id].get("it", {}),
    }
    print(json.dumps(said), flush=True)


cases = [(call, fault) for call in ("start", "log", "image", "alert", "finish")
         for fault in ("raises once", "raises", "blocks", "slow")]
for number, case in enumerate(cases):
    life(number, *case)
os._exit(0)  # what blocks is not waited for
"""


@pytest.mark.parametrize("tracker", ["wandb.WandbTracker", "trackio.TrackioTracker", "tensorboard.TensorBoardTracker"])
def test_whatever_a_tracker_does_training_goes_on(
    tracker: str, python: Callable[..., tuple[str, str]], picture: object
) -> None:
    stdout, _ = python(LIFE, f"expkit.trackers.{tracker}", picture, TRACKIO_DIR="db")
    lives = [json.loads(line) for line in stdout.splitlines()]
    assert len(lives) == 20
    for life in lives:
        call, fault, trouble = life["call"], life["fault"], life["trouble"]
        assert life["good"] and "good" not in trouble, life
        assert life["log"] < 0.002, life
        assert life["end"] < life["bound"] + 1.0, life
        lost = {"start": 32, "log": 32, "image": 1, "alert": 1, "finish": 0}[call]
        if fault == "blocks":
            # What comes after the call that blocks is lost too: 20 records and the call itself, or more.
            assert trouble["it"]["undelivered"] == {"image": 22, "alert": 21}.get(call, lost), life
            assert "not done after" in trouble["it"]["last_error"]
        elif fault == "raises":
            assert trouble["it"]["undelivered"] == lost, life
            assert life["delivered"].get("step", -1) == (-1 if call in ("start", "log") else 30), life
            assert ("finished" in life["delivered"]) is False, life
        else:
            assert trouble.get("it", {}).get("undelivered", 0) == 0, life
            assert life["delivered"]["step"] == 30, life
            assert ("it" in trouble) == (fault == "raises once"), life
            # A run that could not be closed is not tried again: closing may have done half of its work.
            assert ("finished" in life["delivered"]) == (call != "finish" or fault == "slow"), life
