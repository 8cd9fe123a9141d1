from __future__ import annotations

import json
import threading
import time

import pytest

from expkit.trackers import Delivery
from tests.expkit.trackers.memory_tracker import Memory, deliver, explode, warnings

CALLS = ("start", "log", "image", "alert", "finish")


def test_every_tracker_gets_everything_in_order(run, records):
    trackers = {"a": Memory(), "b": Memory()}
    delivery = Delivery(trackers)
    deliver(delivery, run, records([1, 2, 5]))
    delivery.finish({"final/loss": 0.5}, failed=True)
    expected = [
        ("start", run.id),
        ("log", 1),
        ("log", 2),
        ("log", 5),
        ("image", "samples", 5),
        ("alert", "loss_spike"),
        ("finish", {"final/loss": 0.5}, True),
    ]
    assert trackers["a"].got == trackers["b"].got == expected
    assert delivery.failures() == {}
    assert json.loads((run.dir / "logs" / "delivery.json").read_text()) == {
        run.id: {name: {"step": 5, "image": 5, "alert": 3, "finished": True} for name in "ab"}
    }


@pytest.mark.parametrize("call", CALLS)
def test_a_tracker_that_raises_is_said_once_and_counted(call, run, records, caplog):
    good, bad = Memory(), Memory(call, explode)
    delivery = Delivery({"bad": bad, "good": good})
    deliver(delivery, run, records([1, 2, 3]))
    delivery.finish()
    assert good.steps == [1, 2, 3] and good.got[-1][0] == "finish"
    said, *last = warnings(caplog)
    assert "tracker bad" in said and f"{call}()" in said and "\n" not in said
    assert "RuntimeError: cannot send" in said and "OSError: disk is full" in said
    undelivered = {"start": 5, "log": 5, "finish": 0}.get(call, 1)
    trouble = delivery.failures()["bad"]
    assert trouble["undelivered"] == undelivered
    assert trouble["last_error"].startswith(f"{call}: RuntimeError: cannot send")
    assert [f"{undelivered} item(s) not delivered" in each for each in last] == [True] * bool(undelivered)
    assert "good" not in delivery.failures()
    # Without a run there is nothing to log into or to close. Whatever fails is tried twice, but the end.
    assert set(bad.steps) == {"start": set(), "log": {1, 2}}.get(call, {1, 2, 3})
    assert ("finish" in [got[0] for got in bad.got]) == (call != "start")
    assert trouble["failures"] == [got[0] for got in bad.got].count(call) == {"log": 3, "finish": 1}.get(call, 2)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_is_raised_does_not_end_the_thread(error, run, records):
    def leave() -> None:
        raise error

    tracker = Memory("alert", leave)
    delivery = Delivery({"bad": tracker}, finish_timeout=5)
    deliver(delivery, run, records([1, 2]))
    delivery.finish()
    assert tracker.steps == [1, 2] and tracker.got[-1][0] == "finish"
    assert delivery.failures()["bad"]["undelivered"] == 1


@pytest.mark.parametrize("call", CALLS)
def test_a_tracker_that_blocks_forever_costs_no_more_than_the_bounds(call, run, records, caplog):
    good, stuck = Memory(), Memory(call, threading.Event().wait)
    delivery = Delivery({"stuck": stuck, "good": good}, start_timeout=0.2, finish_timeout=0.3)
    began = time.perf_counter()
    logging_took = deliver(delivery, run, records([1, 2, 3]))
    delivery.finish()
    assert time.perf_counter() - began < 1.5
    assert logging_took < 0.1
    assert good.steps == [1, 2, 3] and good.got[-1][0] == "finish"
    (said,) = warnings(caplog)
    assert "tracker stuck" in said and f"abandoned in {call}()" in said
    undelivered = {"start": 5, "log": 5, "image": 2, "alert": 1, "finish": 0}[call]
    assert delivery.failures() == {
        "stuck": {"failures": 1, "undelivered": undelivered, "last_error": f"{call}: not done after 0.3 s"}
    }


def test_a_slow_tracker_does_not_slow_the_caller(run, records):
    slow = Memory("log", lambda: time.sleep(0.005))
    delivery = Delivery({"slow": slow})
    took = deliver(delivery, run, records(range(1, 101)))
    assert took < 0.1  # the tracker itself needs 0.5 s
    delivery.finish()
    assert slow.steps == list(range(1, 101))
    assert delivery.failures() == {}


def test_without_a_journal_a_full_queue_loses_records_which_is_said_and_counted(run, records, caplog):
    release = threading.Event()
    tracker = Memory("start", release.wait)
    delivery = Delivery({"slow": tracker}, queue_size=10, start_timeout=0.01)
    delivery.start(run)
    for record in records(range(1, 26)):
        delivery.log(record)
    release.set()
    delivery.finish()
    assert tracker.steps == list(range(1, 11))
    assert delivery.failures()["slow"] == {"failures": 0, "undelivered": 15, "last_error": ""}
    full, end = warnings(caplog)
    assert "tracker slow" in full and "10 items" in full and "15 item(s) not delivered" in end


def test_a_tracker_that_starts_late_finds_its_records(run, records):
    tracker = Memory("start", lambda: time.sleep(0.3))
    delivery = Delivery({"late": tracker}, start_timeout=0.05)
    began = time.perf_counter()
    delivery.start(run)
    assert time.perf_counter() - began < 0.25
    for record in records([1, 2]):
        delivery.log(record)
    delivery.finish()
    assert tracker.steps == [1, 2] and delivery.failures() == {}


def test_only_a_tracker_that_has_started_says_where_to_look(run):
    class Somewhere(Memory):
        def where(self, run):
            return f"look at {run.id}"

    release = threading.Event()
    good, late = Somewhere(), Somewhere("start", release.wait)
    delivery = Delivery({"good": good, "bad": Somewhere("start", explode), "late": late}, finish_timeout=0.2)
    assert delivery.where(run) == []
    delivery.start(run)
    delivery.finish()
    assert delivery.where(run) == [f"look at {run.id}"]
    release.set()


def test_what_comes_after_finish_is_counted(run, records):
    tracker = Memory()
    delivery = Delivery({"a": tracker})
    delivery.start(run)
    delivery.finish()
    delivery.log(records([1])[0])
    assert tracker.steps == [] and delivery.failures()["a"]["undelivered"] == 1


def test_the_caller_pays_microseconds(run, records):
    delivery = Delivery({"a": Memory(), "b": Memory()}, queue_size=100_000)
    delivery.start(run)
    many = records(range(1, 5001))
    took = []
    for record in many:
        began = time.perf_counter()
        delivery.log(record)
        took.append(time.perf_counter() - began)
    delivery.finish()
    assert sorted(took)[len(took) // 2] < 25e-6


EXIT = """
import sys, threading, time
from pathlib import Path
from expkit.record import Record
from expkit.trackers import Delivery, RunInfo, Tracker

class Stuck(Tracker):
    def log(self, record):
        threading.Event().wait()

delivery = Delivery({"stuck": Stuck()}, finish_timeout=0.2)
delivery.start(RunInfo(id="x", dir=Path("run")))
delivery.log(Record(1, 1, 0.0, {"a": 1.0}))
time.sleep(0.1)
if sys.argv[1] == "finish":
    delivery.finish()
print(time.time())
"""


@pytest.mark.parametrize("way", ["finish", "leave"])
def test_the_interpreter_exits_although_a_tracker_is_stuck(way, python):
    ended = float(python(EXIT, way)[0])
    assert time.time() - ended < 3


def test_importing_the_package_is_light(python):
    script = """
import sys
import expkit.trackers, expkit.trackers.wandb, expkit.trackers.trackio
expkit.trackers.wandb.WandbTracker(project="p"), expkit.trackers.trackio.TrackioTracker(dir="d")
print(sorted({"wandb", "trackio", "torch", "numpy", "huggingface_hub"} & set(sys.modules)))
"""
    assert python(script)[0].strip() == "[]"
