"""The watermarks: what a resumed run sends, and when they are written."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import expkit.trackers.ledger as ledger_module
from expkit.journal import Journal
from expkit.record import Record
from expkit.trackers import Delivery, RunInfo
from tests.expkit.trackers.memory_tracker import Memory, deliver, explode, warnings


def resumed(run: RunInfo, step: int, run_id: str | None = None) -> RunInfo:
    return RunInfo(id=run_id or run.id, dir=run.dir, resumed_step=step)


def steps_in(entries: dict[str, dict[str, Any]]) -> dict[str, int]:
    return {name: entry["step"] for name, entry in entries.items() if "step" in entry}


def once(run: RunInfo, records: list[Record], **trackers: Memory) -> None:
    delivery = Delivery(trackers)
    deliver(delivery, run, records)
    delivery.finish()


def test_a_resumed_run_sends_nothing_twice(run, records):
    once(run, records(range(1, 8)), a=Memory())
    again, new = Memory(), Memory()
    once(resumed(run, 5), records(range(5, 11)), a=again, new=new)
    assert again.steps == [8, 9, 10]
    assert new.steps == [5, 6, 7, 8, 9, 10]
    third = Memory()
    once(resumed(run, 10), records([10]), a=third)
    assert third.steps == []
    assert [call for call, *_ in third.got] == ["start", "alert", "finish"]  # messages go out in any case


def test_what_the_tool_holds_outranks_the_file(run, records):
    once(run, records(range(1, 8)), behind=Memory(), ahead=Memory(), empty=Memory())
    behind, ahead, silent = Memory(held=6), Memory(held=9), Memory()
    once(resumed(run, 5), records(range(6, 12)), behind=behind, ahead=ahead, empty=silent)
    assert behind.steps == [7, 8, 9, 10, 11]  # killed before the tool had written step 7
    assert ahead.steps == [10, 11]
    assert silent.steps == [8, 9, 10, 11]


def test_a_fresh_run_and_another_run_id_start_from_nothing(run, records):
    once(run, records([1, 2, 3]), a=Memory())
    restarted, rewound = Memory(), Memory()
    once(run, records([1, 2]), a=restarted)
    assert restarted.steps == [1, 2]
    once(resumed(run, 1, f"{run.id}-r1"), records([2, 3]), a=rewound)
    assert rewound.steps == [2, 3]
    kept = json.loads((run.dir / "logs" / "delivery.json").read_text())
    assert {name: entry["a"]["step"] for name, entry in kept.items()} == {run.id: 2, f"{run.id}-r1": 3}


def test_a_failed_record_does_not_count_as_delivered(run, records):
    once(run, records([1, 2]), a=Memory("log", explode))
    again = Memory()
    once(resumed(run, 1), records([2]), a=again)
    assert again.steps == [2]


def test_a_broken_watermark_file_is_said_and_ignored(run, records, caplog):
    (run.dir / "logs").mkdir(parents=True)
    (run.dir / "logs" / "delivery.json").write_text("[1, 2")
    tracker = Memory()
    once(resumed(run, 5), records([6]), a=tracker)
    assert tracker.steps == [6]
    assert ["delivery.json" in said for said in warnings(caplog)] == [True]


def test_watermarks_are_written_once_a_second_without_finish(run, records, monkeypatch):
    writes = []

    def write_json(path: Path, value: Any, durable: bool = True) -> None:
        writes.append((time.monotonic(), steps_in(value[run.id])))

    monkeypatch.setattr(ledger_module, "write_json", write_json)
    delivery = Delivery({"a": Memory(), "b": Memory()})
    delivery.start(run)
    for record in records(range(1, 251)):
        delivery.log(record)
        time.sleep(0.005)
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline and not (writes and writes[-1][1] == {"a": 250, "b": 250}):
        time.sleep(0.05)
    assert writes[-1][1] == {"a": 250, "b": 250}  # the last burst too, though nothing follows it
    moments = [moment for moment, _ in writes]
    assert len(writes) >= 2
    assert min(later - earlier for earlier, later in itertools.pairwise(moments)) > 0.9
    delivery.finish()


def test_watermarks_are_written_while_a_queue_is_worked_off(run, records, monkeypatch):
    writes = []
    monkeypatch.setattr(
        ledger_module, "write_json", lambda path, value, durable: writes.append(value[run.id].get("a", {}).get("step"))
    )
    monkeypatch.setattr(ledger_module, "_SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(ledger_module, "_SETTLED", 0.001)
    once(run, records(range(1, 21)), a=Memory("log", lambda: time.sleep(0.002)))
    writes = [step for step in writes if step is not None]
    assert writes == sorted(set(writes))
    assert len(writes) > 10
    assert writes[-1] == 20


def test_a_disk_that_refuses_the_watermarks_stops_nothing(run, records, monkeypatch):
    def write_json(*args: Any, **options: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(ledger_module, "write_json", write_json)
    monkeypatch.setattr(ledger_module, "_SAVE_INTERVAL", 0.0)
    tracker = Memory()
    once(run, records([1, 2, 3]), a=tracker)
    assert tracker.steps == [1, 2, 3]


def test_a_step_counts_as_delivered_once_the_tool_has_had_time_to_write_it(run, records, monkeypatch):
    writes = []
    monkeypatch.setattr(
        ledger_module, "write_json", lambda path, value, durable: writes.append(steps_in(value[run.id]))
    )
    monkeypatch.setattr(ledger_module, "_SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(ledger_module, "_SETTLED", 60.0)
    delivery = Delivery({"a": Memory()})
    delivery.start(run)
    for record in records(range(1, 21)):
        delivery.log(record)
    time.sleep(0.3)
    assert not any(writes)
    delivery.finish()
    assert writes[-1] == {"a": 20}


def test_what_the_journal_holds_and_the_tracker_does_not_is_sent_after_a_resume(run, records):
    (run.dir / "logs").mkdir(parents=True, exist_ok=True)
    with Journal(run.dir / "logs" / "metrics.jsonl") as journal:
        for record in records(range(1, 31)):
            journal.write(record)
    tracker = Memory(held=12)
    once(resumed(run, 20), records([21, 22]), a=tracker)
    assert tracker.steps == list(range(13, 23))
