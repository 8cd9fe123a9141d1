"""A tracker that fails for a while gets everything in the end: each record once, in order, from queue or journal."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import expkit.trackers.backlog as backlog_module
import expkit.trackers.sender as sender_module
from expkit.journal import Journal, to_record
from expkit.record import Record
from expkit.trackers import Delivery, RunInfo, Tracker
from expkit.trackers.known import known, make_tracker, option_of
from expkit.trackers.tensorboard import TensorBoardTracker
from tests.conftest import CONF
from tests.expkit.trackers.memory_tracker import ALERT, warnings


class Tool(Tracker):
    """A tool with a store that outlives its failures: `fails(call, step)` says when it does."""

    def __init__(self, fails: Callable[[str, int], bool] = lambda call, step: False, knows: bool = True) -> None:
        self.fails, self.knows = fails, knows
        self.steps: list[int] = []
        self.others: list[tuple[str, int]] = []
        self.starts = 0
        self.summary: Any = None

    def _try(self, call: str, step: int) -> None:
        if self.fails(call, step):
            raise ConnectionError("the tool is gone")

    def start(self, run: RunInfo) -> int | None:
        self.starts += 1
        self._try("start", run.resumed_step)
        return (self.steps[-1] if self.steps else -1) if self.knows else None

    def log(self, record: Record) -> None:
        self._try("log", record.step)
        self.steps.append(record.step)

    def image(self, name: str, path: Path, step: int) -> None:
        self._try("image", step)
        self.others.append((name, step))

    def alert(self, alert: Any) -> None:
        self._try("alert", alert.step)
        self.others.append((alert.title, alert.step))

    def finish(self, summary: Any, failed: bool = False) -> None:
        self._try("finish", 0)
        self.summary = summary


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "_FIRST_PAUSE", 0.02)


@pytest.fixture
def write(run: RunInfo, records: Callable[..., list[Record]]) -> Iterator[Callable[[Delivery, Sequence[int]], None]]:
    """Send records as a run does: to the journal, and then to the trackers."""
    run.dir.joinpath("logs").mkdir(parents=True)
    with Journal(run.dir / "logs" / "metrics.jsonl") as journal:

        def call(delivery: Delivery, steps: Sequence[int]) -> None:
            for record in records(steps):
                journal.write(record)
                delivery.log(record)

        yield call


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ledger(run: RunInfo) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((run.dir / "logs" / "delivery.json").read_text())[run.id]["tool"]
    return entries


@pytest.mark.parametrize("knows", [True, False])
def test_after_an_outage_every_record_comes_once_and_in_order(knows, run, write, caplog):
    up = threading.Event()
    tool = Tool(lambda call, step: step > 5 and not up.is_set(), knows)
    delivery = Delivery({"tool": tool})
    delivery.start(run)
    write(delivery, range(1, 40))
    wait_for(lambda: tool.starts > 2)
    assert tool.steps == [1, 2, 3, 4, 5]
    up.set()
    delivery.finish({"final/loss": 1.0})
    assert tool.steps == list(range(1, 40)) and tool.summary == {"final/loss": 1.0}
    trouble = delivery.failures()["tool"]
    assert trouble["undelivered"] == 0 and trouble["failures"] >= 3
    (said,) = warnings(caplog)
    assert "log() failed: ConnectionError: the tool is gone" in said
    assert ledger(run) == {"step": 39, "finished": True}


def test_a_tool_that_lost_its_last_moment_gets_it_again(run, write):
    crashed = threading.Event()

    def fails(call: str, step: int) -> bool:
        if call == "log" and step == 20 and not crashed.is_set():
            del tool.steps[12:]  # what it had in memory only
            crashed.set()
            return True
        return False

    tool = Tool(fails)
    delivery = Delivery({"tool": tool})
    delivery.start(run)
    write(delivery, range(1, 31))
    delivery.finish()
    assert tool.steps == list(range(1, 31)) and tool.starts == 2
    assert delivery.failures()["tool"]["undelivered"] == 0


def test_one_record_that_it_refuses_is_left_out_and_known(run, write):
    tool = Tool(lambda call, step: call == "log" and step in (7, 21))
    delivery = Delivery({"tool": tool})
    delivery.start(run)
    write(delivery, range(1, 31))
    delivery.finish()
    assert tool.steps == [step for step in range(1, 31) if step not in (7, 21)]
    assert delivery.failures()["tool"]["undelivered"] == 2
    assert ledger(run) == {"step": 30, "missed": [["log", "", 7], ["log", "", 21]]}


def test_records_that_do_not_fit_into_the_queue_come_from_the_journal(run, write, caplog):
    release = threading.Event()

    class Late(Tool):
        def start(self, run: RunInfo) -> int | None:
            release.wait()
            return super().start(run)

    tool = Late()
    delivery = Delivery({"tool": tool}, queue_size=10)
    delivery.start(run)
    write(delivery, range(1, 51))
    delivery.image("samples", Path("a.png"), 50)
    release.set()
    wait_for(lambda: len(tool.steps) == 10)
    write(delivery, range(51, 55))
    delivery.finish()
    assert tool.steps == list(range(1, 55))
    assert delivery.failures()["tool"]["undelivered"] == 1  # the picture
    assert ledger(run)["missed"] == [["image", "samples", 50]]
    full, end = warnings(caplog)
    assert "10 items wait" in full and "1 item(s) not delivered" in end


def test_pictures_and_alerts_of_an_outage_come_afterwards(run, write):
    up = threading.Event()
    tool = Tool(lambda call, step: not up.is_set())
    delivery = Delivery({"tool": tool})
    delivery.start(run)
    write(delivery, [1, 2])
    delivery.image("samples", Path("a.png"), 2)
    delivery.alert(ALERT)
    wait_for(lambda: tool.starts > 1)
    up.set()
    delivery.finish()
    assert tool.steps == [1, 2] and tool.others == [("samples", 2), (ALERT.title, ALERT.step)]
    assert delivery.failures()["tool"]["undelivered"] == 0


def test_what_a_tool_that_stays_away_lacks_is_known_and_comes_with_a_resume(run, write, caplog):
    tool = Tool(lambda call, step: step > 5)
    delivery = Delivery({"tool": tool})
    delivery.start(run)
    write(delivery, range(1, 21))
    wait_for(lambda: tool.starts > 2)
    delivery.finish()
    assert delivery.failures()["tool"]["undelivered"] == 15
    assert "finished" not in ledger(run) and tool.summary is not None  # closed as well as it could be
    assert "15 item(s) not delivered" in warnings(caplog)[-1]
    tool.fails = lambda call, step: False
    again = Delivery({"tool": tool})
    again.start(RunInfo(id=run.id, dir=run.dir, resumed_step=20))
    write(again, [21])
    again.finish()
    assert tool.steps == list(range(1, 22)) and again.failures() == {}


def test_an_outage_never_delays_the_caller_or_the_end(run, write):
    tool = Tool(lambda call, step: True)
    delivery = Delivery({"tool": tool})
    delivery.start(run)
    began = time.perf_counter()
    write(delivery, range(1, 1001))
    delivery.finish()
    assert time.perf_counter() - began < 2
    assert delivery.failures()["tool"]["undelivered"] == 1000


def test_a_slow_tracker_costs_one_pass_over_the_journal(run, write, monkeypatch):
    decoded = []
    monkeypatch.setattr(backlog_module, "to_record", lambda entry: decoded.append(entry["step"]) or to_record(entry))

    class Slow(Tool):
        def log(self, record: Record) -> None:
            time.sleep(0.0005)
            super().log(record)

    tool = Slow()
    delivery = Delivery({"tool": tool}, queue_size=10)
    delivery.start(run)
    write(delivery, range(1, 2001))
    delivery.finish()
    assert tool.steps == list(range(1, 2001)) and delivery.failures() == {}
    assert len(decoded) <= 2000


@pytest.mark.parametrize("fails", ["raises", "hangs"])
def test_what_is_not_delivered_is_counted_in_the_middle_of_catching_up(fails, run, write):
    release = threading.Event()

    def wrong(call: str, step: int) -> bool:
        if call == "start":
            release.wait()
        if call == "log" and step >= 50:
            if fails == "hangs":
                threading.Event().wait()
            return True
        return False

    tool = Tool(wrong)
    delivery = Delivery({"tool": tool}, queue_size=5, finish_timeout=0.5)
    delivery.start(run)
    write(delivery, range(1, 102))
    release.set()
    delivery.finish()
    assert tool.steps == list(range(1, 50))
    assert delivery.failures()["tool"]["undelivered"] == 101 - 49


@pytest.mark.parametrize("answer", ["ok", True, 1.5])
def test_a_start_that_returns_no_step_is_a_failure_like_others(answer, run, write, caplog):
    tool = Tool()
    tool.start = lambda run: answer
    delivery = Delivery({"tool": tool})
    delivery.start(run)
    write(delivery, [1])
    delivery.finish({})
    assert tool.steps == [] and delivery.failures()["tool"]["undelivered"] == 1
    said = f"start() failed: TypeError: start() returned {answer!r}, but it must return the last step"
    assert said in warnings(caplog)[0]


def test_what_is_to_be_typed_for_a_tracker_of_ones_own_names_its_class(run, write, caplog):
    delivery = Delivery({"tool": Tool(lambda call, step: True)})
    delivery.start(run)
    write(delivery, [1])
    delivery.finish({})
    assert f"expkit replay {run.dir} --to {__name__}:Tool sends what is missing" in warnings(caplog)[-1]
    assert option_of(TensorBoardTracker()) == ""


def test_commands_know_the_trackers_that_there_are_files_for():
    assert set(known()) == {file.stem for file in (CONF / "tracker").glob("*.yaml")}
    assert all(make_tracker(name, {}) for name in ("tensorboard", "wandb"))
