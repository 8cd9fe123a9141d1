"""What detectors notice reaches the file, the terminal and the trackers."""

from __future__ import annotations

import errno
import json
import logging
import threading
from pathlib import Path

import pytest
import torch

from expkit.detectors import Detector, Event, Severity
from expkit.events import EventLog, read_events
from expkit.record import Record, make_record
from expkit.trackers import Alert
from tests.faults.injector import FaultInjector


class High(Detector):
    """Says when the loss is above 1."""

    name = "high"

    def observe(self, record: Record) -> list[Event]:
        loss = record.metrics["loss"]
        if loss <= 1:
            return []
        return [Event(self.name, "high_loss", Severity.WARNING, record.step, f"loss {loss}", {"loss": loss})]


def test_an_event_is_written_shown_and_passed_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, alerts = tmp_path / "events.jsonl", []
    log = EventLog(path, {"high": High()}, alerts.append)
    assert log.observe(make_record(1, {"loss": 0.5})) == []
    assert not path.exists()
    (event,) = log.observe(make_record(2, {"loss": 3.0}, epoch=4))
    log.close()
    assert event.kind == "high_loss"
    entry = json.loads(path.read_text())
    assert entry.pop("time") > 1.7e9
    assert entry == {
        "step": 2,
        "epoch": 4,
        "detector": "high",
        "kind": "high_loss",
        "reason": "high_loss",
        "severity": "WARNING",
        "message": "loss 3.0",
        "values": {"loss": 3.0},
        "alert": True,
    }
    assert alerts == [Alert("high_loss", "loss 3.0", "WARNING", 2, "high")]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "step 2: loss 3.0")
    ]


def test_an_events_words_and_values_need_not_be_of_the_exact_types(tmp_path: Path) -> None:
    class Tensors(Detector):
        def observe(self, record: Record) -> list[Event]:
            return [Event("t", "high", "CRITICAL", record.step, "high", {"loss": torch.tensor(3.0)})]  # type: ignore[arg-type, dict-item]

    alerts: list[Alert] = []
    log = EventLog(tmp_path / "events.jsonl", {"t": Tensors()}, alerts.append)
    log.observe(make_record(1, {}))
    log.close()
    assert json.loads((tmp_path / "events.jsonl").read_text())["values"] == {"loss": 3.0}
    assert alerts == [Alert("high", "high", "CRITICAL", 1, "t")]


class Dawdling(High):
    """Takes its time, by the clock that it is given."""

    def __init__(self, now: list[float], takes: float) -> None:
        self.now, self.takes = now, takes

    def observe(self, record: Record) -> list[Event]:
        self.now[0] += self.takes
        return []


@pytest.mark.parametrize(("takes", "said"), [(0.5, ["detectors.slow"]), (0.03, [])])
def test_one_that_takes_much_of_the_time_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, takes: float, said: list[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    log = EventLog(tmp_path / "events.jsonl", {"slow": Dawdling(now, takes), "quick": High()}, lambda alert: None)
    for step in range(200):
        now[0] += 1.0  # of training
        log.observe(make_record(step, {"loss": 0.0}))
    assert [message.split(" has taken 3")[0] for message in caplog.messages] == said


def test_what_was_done_about_an_event_is_written_down_and_no_alert(tmp_path: Path) -> None:
    path, alerts = tmp_path / "events.jsonl", []
    log = EventLog(path, {"high": High()}, alerts.append, epoch=3)
    threads = [threading.Thread(target=log.note, args=("high", step, Severity.WARNING, "stop")) for step in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    log.close()
    entries = read_events(path)
    assert sorted(entry["step"] for entry in entries) == list(range(8))
    assert {(entry["kind"], entry["alert"], entry["epoch"]) for entry in entries} == {("response", False, 3)}
    assert alerts == []
    assert log.troubles() == []


def test_without_detectors_there_is_no_file(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", {}, lambda _: None)
    log.observe(make_record(1, {"loss": 9.0}))
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_on_a_full_disk_events_wait(tmp_path: Path) -> None:
    path, alerts = tmp_path / "events.jsonl", []
    log = EventLog(path, {"high": High()}, alerts.append)
    with FaultInjector(tmp_path, 0, errno.ENOSPC, lasting=True):
        log.observe(make_record(1, {"loss": 3.0}))
        assert log.trouble()["waiting"] == 1
    log.observe(make_record(2, {"loss": 3.0}))
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    assert len(alerts) == 2
