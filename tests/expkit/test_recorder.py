"""The recorder: one record per step, whoever has something to say, and from whatever thread."""

from __future__ import annotations

import threading

import pytest
import torch

from expkit.record import Record
from expkit.recorder import Recorder


def test_one_record_per_step_of_all_that_was_added() -> None:
    seen: list[Record] = []
    recorder = Recorder([seen.append])
    recorder.add({"train_loss": torch.tensor(0.5)}, series={"train_loss": [0.4, 0.6]})
    recorder.add({"val_loss": 0.7}, details={"centers": torch.zeros(2)})
    record = recorder.emit(step=10, epoch=2)
    assert seen == [record]
    assert (record.step, record.epoch) == (10, 2)
    assert record.metrics == {"train_loss": 0.5, "val_loss": 0.7}
    assert record.details == {"centers": [0.0, 0.0]}
    assert record.series == {"train_loss": [0.4, 0.6]}


def test_sinks_are_called_in_order() -> None:
    order: list[str] = []
    recorder = Recorder([lambda _: order.append("journal"), lambda _: order.append("trackers")])
    recorder.add({"loss": 1.0})
    recorder.emit(1, 1)
    assert order == ["journal", "trackers"]


def test_late_values_ride_on_the_next_record() -> None:
    recorder = Recorder()
    recorder.add({"loss": 1.0})
    assert recorder.emit(1, 1).metrics == {"loss": 1.0}
    recorder.add({"gpu/compute_util_avg": 90})
    assert recorder.pending()
    recorder.add({"loss": 0.9})
    assert recorder.emit(2, 1).metrics == {"gpu/compute_util_avg": 90, "loss": 0.9}
    assert not recorder.pending()


def test_a_name_said_twice_keeps_the_later_value() -> None:
    recorder = Recorder()
    recorder.add({"loss": 1.0})
    recorder.add({"loss": 2.0})
    assert recorder.emit(1, 1).metrics == {"loss": 2.0}


def test_latest_holds_the_last_value_of_every_metric() -> None:
    recorder = Recorder()
    for step, metrics in enumerate([{"loss": 1.0, "val_loss": 3.0}, {"loss": 0.5}], 1):
        recorder.add(metrics)
        recorder.emit(step, 1)
    assert recorder.latest == {"loss": 0.5, "val_loss": 3.0}


@pytest.mark.parametrize(("name", "value"), [("step", 3), ("loss", torch.zeros(3)), ("loss", "low")])
def test_a_bad_metric_is_refused_where_it_is_added_and_costs_nobody_else_theirs(name: str, value: object) -> None:
    recorder = Recorder()
    recorder.add({"loss": 1.0})
    with pytest.raises((TypeError, ValueError), match=name):
        recorder.add({"other": 1.0, name: value})
    assert recorder.emit(1, 1).metrics == {"loss": 1.0}


def test_values_from_several_threads_come_exactly_once() -> None:
    records: list[Record] = []
    recorder = Recorder([records.append])
    count, threads = 500, 6

    def add(thread: int) -> None:
        for number in range(count):
            recorder.add({f"{thread}/{number}": number})

    workers = [threading.Thread(target=add, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    step = 0
    while any(worker.is_alive() for worker in workers) or recorder.pending():
        step += 1
        recorder.emit(step, 1)
    names = [name for record in records for name in record.metrics]
    assert len(names) == len(set(names)) == count * threads
    assert [record.step for record in records] == list(range(1, step + 1))
