"""The reader of a run's files: whatever happens to them, what it shows is what they say."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from expkit.experiment import RunDir
from expkit.journal import Journal, cut_journal
from expkit.reading.feed import RunFeed
from expkit.record import Record


def record(step: int, **more: Any) -> Record:
    return Record(step, 1 + step // 100, 1e9 + step / 10, {"train_loss": 5 / (1 + step), **more})


def write(run: Path, steps: range, **more: Any) -> None:
    (run / "logs").mkdir(parents=True, exist_ok=True)
    with Journal(run / "logs" / "metrics.jsonl") as journal:
        for step in steps:
            journal.write(record(step, **more), flush=False)


def points(feed: RunFeed, name: str = "train_loss") -> list[tuple[float, float]]:
    return list(zip(*feed.curves[name].line(), strict=True)) if name in feed.curves else []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def feed(run: Path) -> RunFeed:
    return RunFeed(RunDir(run))


def test_only_what_is_new_is_read(run: Path, feed: RunFeed) -> None:
    assert not feed.refresh() or not feed.curves
    write(run, range(10))
    assert feed.refresh()
    assert points(feed) == [(step, 5 / (1 + step)) for step in range(10)]
    assert not feed.refresh()
    write(run, range(10, 13))
    assert feed.refresh()
    assert points(feed) == [(step, 5 / (1 + step)) for step in range(13)]
    assert (feed.records, feed.last["step"], feed.last["train_loss"]) == (13, 12, 5 / 13)


def test_a_line_that_is_being_written_waits_for_its_end(run: Path, feed: RunFeed) -> None:
    write(run, range(3))
    line = orjson.dumps({"step": 3, "train_loss": 0.25}) + b"\n"
    with (run / "logs" / "metrics.jsonl").open("ab") as file:
        file.write(line[:12])
        file.flush()
        feed.refresh()
        assert (len(points(feed)), feed.broken) == (3, 0)
        file.write(line[12:])
    feed.refresh()
    assert points(feed)[-1] == (3, 0.25)


def test_a_resume_that_cuts_the_journal_back_begins_anew(run: Path, feed: RunFeed) -> None:
    write(run, range(100))
    feed.refresh()
    cut_journal(run / "logs" / "metrics.jsonl", 49)
    write(run, range(50, 60), val_loss=1.0)
    feed.refresh()
    assert [step for step, _ in points(feed)] == list(range(60))
    assert [step for step, _ in points(feed, "val_loss")] == list(range(50, 60))
    assert (feed.records, feed.generation) == (60, 1)


def test_a_run_directory_may_go_and_come_again(run: Path, feed: RunFeed) -> None:
    write(run, range(100))
    line = {"step": 5, "time": 1.0, "severity": "WARNING", "kind": "nan", "message": "m"}
    (run / "logs" / "events.jsonl").write_bytes(orjson.dumps(line) + b"\n")
    feed.refresh()
    shutil.rmtree(run)
    feed.refresh()
    assert (len(points(feed)), len(feed.events)) == (100, 1), "what was seen stays to be seen"
    run.mkdir()
    write(run, range(7))
    feed.refresh()
    assert [step for step, _ in points(feed)] == list(range(7))
    assert feed.events == []


def test_rotated_parts_are_one_journal(run: Path, feed: RunFeed) -> None:
    write(run, range(5))
    feed.refresh()
    with Journal(run / "logs" / "metrics.jsonl") as journal:
        journal.rotate()
        journal.write(record(5))
    feed.refresh()
    assert [step for step, _ in points(feed)] == list(range(6))


def test_every_value_of_a_series_is_drawn_and_its_mean_is_not(run: Path, feed: RunFeed) -> None:
    (run / "logs").mkdir()
    with Journal(run / "logs" / "metrics.jsonl") as journal:
        journal.write(Record(3, 1, 1.0, {"train_loss": 2.0}, series={"train_loss": [3.0, 2.0, 1.0]}))
        journal.write(Record(4, 1, 2.0, {"train_loss": 0.5}))
    feed.refresh()
    assert points(feed) == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]


def test_what_is_not_finite_is_marked_and_not_dropped(run: Path, feed: RunFeed) -> None:
    write(run, range(3))
    write(run, range(3, 6), train_loss=math.nan)
    write(run, range(6, 8), train_loss=math.inf)
    write(run, range(8, 10))
    feed.refresh()
    curve = feed.curves["train_loss"]
    assert (curve.nonfinite, curve.nonfinite_steps, curve.count) == (5, [3, 4, 5, 6, 7], 5)


@pytest.mark.parametrize("chunk", [1, 7, 5000])
def test_metrics_that_come_now_and_then_keep_their_order(run: Path, feed: RunFeed, chunk: int) -> None:
    """Entries with other names than their neighbours are read in tables of their own."""
    rng = random.Random(0)
    wanted: dict[str, list[tuple[int, float]]] = {}
    for start in range(0, 600, chunk):
        for step in range(start, min(600, start + chunk)):
            more = {name: rng.random() for name in ("a", "b", "val_loss") if rng.random() < 0.3}
            write(run, range(step, step + 1), **more)
            for name, value in more.items():
                wanted.setdefault(name, []).append((step, value))
        feed.refresh()
    for name, expected in wanted.items():
        assert points(feed, name) == expected
        assert feed.last[name] == expected[-1][1]


def test_a_spike_of_one_step_in_forty_thousand_stays(run: Path, feed: RunFeed) -> None:
    write(run, range(7_000))
    write(run, range(7_000, 7_001), train_loss=99.0)
    write(run, range(7_001, 40_000))
    feed.refresh()
    assert (7_000, 99.0) in points(feed)
    thin = feed.curves["train_loss"].thinned(100)
    assert (7_000, 99.0) in list(zip(*thin.line(), strict=True))
    assert len(thin.line()[0]) <= 200
    assert thin.count == 40_000


def test_memory_stays_bounded(run: Path, feed: RunFeed) -> None:
    for start in range(0, 60_000, 20_000):
        write(run, range(start, start + 20_000))
        feed.refresh()
    assert all(len(curve.line()[0]) <= 2 * 8192 for curve in feed.curves.values())
    assert len(feed.recent) == 256


def test_time_and_epochs_are_found_for_any_step(run: Path, feed: RunFeed) -> None:
    write(run, range(0, 1000, 10))
    feed.refresh()
    assert feed.seconds(np.array([0.0, 500.0, 505.0])) == pytest.approx([0.0, 50.0, 50.5])
    assert feed.epochs(np.array([100.0, 990.0])) == pytest.approx([2.0, 10.0])


def test_events_of_the_run_and_of_its_watcher_come_in_the_order_of_time(run: Path, feed: RunFeed) -> None:
    (run / "logs").mkdir()
    rows = [("events", 1.0, "loss_spike"), ("watch_events", 2.0, "stalled"), ("events", 3.0, "nonfinite")]
    for file, moment, kind in rows:
        line = {"step": int(moment), "time": moment, "severity": "WARNING", "kind": kind, "message": "m"}
        with (run / "logs" / f"{file}.jsonl").open("ab") as out:
            out.write(orjson.dumps(line) + b'\n{"torn')
            out.write(b"\n")
    feed.refresh()
    assert [entry["kind"] for entry in feed.events] == ["loss_spike", "stalled", "nonfinite"]


def test_a_directory_that_has_only_a_results_json_is_read_from_that(run: Path, feed: RunFeed) -> None:
    history = [
        {"epoch": 1, "train": {"loss": 3.0}, "test": {"loss": 4.0}, "diagnostics": {"silhouette_score": None}},
        {"epoch": 2, "train_loss": 2.0, "test_loss": 3.0, "diagnostics": {"silhouette_score": 0.5}},
        "rubbish",
    ]
    (run / "results.json").write_bytes(orjson.dumps({"training_history": history}))
    feed.refresh()
    assert points(feed, "train_loss") == [(1, 3.0), (2, 2.0)]
    assert points(feed, "val_loss") == [(1, 4.0), (2, 3.0)]
    assert points(feed, "silhouette_score") == [(2, 0.5)]
    (run / "results.json").write_bytes(b'{"training_history": [')  # being written
    feed.refresh()
    assert points(feed, "train_loss") == [(1, 3.0), (2, 2.0)]


def test_a_results_json_of_a_run_that_diverged_is_read_and_what_is_undefined_marked(run: Path, feed: RunFeed) -> None:
    """Python's json writes NaN, which is no JSON."""
    history = [
        {"epoch": epoch, "train": {"loss": loss}, "diagnostics": {"silhouette_score": score, "centers": [1]}}
        for epoch, loss, score in ((1, 3.0, None), (2, math.nan, 0.5), (10**400, math.inf, None))
    ]
    (run / "results.json").write_text(json.dumps({"training_history": history}))
    feed.refresh()
    assert points(feed, "train_loss") == [(1, 3.0)] and feed.curves["train_loss"].nonfinite_steps == [2, 3]
    assert points(feed, "silhouette_score") == [(2, 0.5)]
    assert feed.curves["silhouette_score"].nonfinite_steps == [1, 3]


def test_a_journal_takes_the_place_of_what_a_results_json_told(run: Path, feed: RunFeed) -> None:
    (run / "results.json").write_bytes(orjson.dumps({"training_history": [{"epoch": 50, "loss": 9.0}]}))
    feed.refresh()
    assert points(feed, "loss") == [(50, 9.0)]
    write(run, range(3))
    feed.refresh()
    assert "loss" not in feed.curves and len(points(feed)) == 3


def test_lines_that_cannot_be_read_are_those_of_the_journal_that_is_there(run: Path, feed: RunFeed) -> None:
    journal = run / "logs" / "metrics.jsonl"
    write(run, range(5))
    for number in (3, 1):
        lines = journal.read_bytes()
        journal.unlink()
        journal.write_bytes(b"rubbish\n" * number + lines)
        feed.refresh()
        assert (feed.broken, feed.records) == (number if number == 3 else 4, 5)


def test_reading_a_long_journal_can_be_done_bit_by_bit(run: Path, feed: RunFeed) -> None:
    write(run, range(20_000))
    looks = 0
    while not feed.caught_up:
        feed.refresh(within=0.0)
        looks += 1
    assert looks > 3
    assert feed.records == 20_000
    assert points(feed)[-1][0] == 19_999
