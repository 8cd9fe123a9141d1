"""What trackers add to a record and to a step: behind their queues, and called directly."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import torch

from benchmarks.harness import Comparison, Goal, Tables, compare, per_step
from benchmarks.tools import TensorBoard, Trackio, Wandb
from expkit.journal import Journal
from expkit.record import Record
from expkit.trackers import Delivery, RunInfo, Tracker
from expkit.trackers.tensorboard import TensorBoardTracker
from expkit.trackers.trackio import TrackioTracker
from expkit.trackers.wandb import WandbTracker

__all__ = ["TEXT", "THREADS", "measure"]

THREADS = "torch on 1 thread"

_LINES = "`json` line written and flushed"
_STEP = "no logging"

TEXT = """\
A record has four numbers. *In a burst* it is written, or given away, as fast as the loop can; the tools' own threads
and processes work at the same time, on the same cores. wandb is offline, as expkit sets it. What each tool takes
without expkit stands in the part above. The second table is a loop of steps of some 10 ms (matrix products on one
thread) that logs a record every 10 steps, to all three tools: directly, or through the journal and `Delivery`. Opening
and closing the tools is not timed."""

_numbers = count()


def _record(step: int) -> Record:
    return Record(step, 1, time.time(), {"train_loss": 1 / step, "val_loss": 2 / step, "lr": 1e-3, "norm": float(step)})


@contextlib.contextmanager
def _journal(folder: Path) -> Iterator[Callable[[Record], object]]:
    with Journal(folder / f"{next(_numbers)}.jsonl") as journal:
        yield journal.write


@contextlib.contextmanager
def _lines(folder: Path) -> Iterator[Callable[[Record], object]]:
    with (folder / f"{next(_numbers)}.jsonl").open("wb") as file:

        def write(record: Record) -> None:
            file.write(orjson.dumps({"step": record.step, "time": record.time, **record.metrics}) + b"\n")
            file.flush()

        yield write


@contextlib.contextmanager
def _delivery(folder: Path, *trackers: type[Tracker]) -> Iterator[Callable[[Record], object]]:
    run = RunInfo(id=f"run{next(_numbers)}", dir=folder / f"run{next(_numbers)}", project="bench")
    (run.dir / "logs").mkdir(parents=True)
    delivery = Delivery({kind.__name__: kind() for kind in trackers}, start_timeout=60, finish_timeout=300)
    with Journal(run.dir / "logs" / "metrics.jsonl") as journal:
        delivery.start(run)

        def log(record: Record) -> None:
            journal.write(record)
            delivery.log(record)

        yield log
        delivery.finish()
        assert not any(trouble["undelivered"] for trouble in delivery.failures().values())


@contextlib.contextmanager
def _all_bare(folder: Path) -> Iterator[Callable[[Record], object]]:
    tools = [kind(folder) for kind in (Wandb, Trackio, TensorBoard)]

    def log(record: Record) -> None:
        for tool in tools:
            tool.log(record)

    yield log
    for tool in tools:
        tool.close()


_ALL: tuple[type[Tracker], ...] = (WandbTracker, TrackioTracker, TensorBoardTracker)


def bursts(folder: Path, records: int, rounds: int) -> Comparison:
    """Return the microseconds of the calling thread per record, in a burst."""

    def sample(opened: Any, number: int) -> Callable[[], float]:
        def run() -> float:
            with opened() as log:
                made = [_record(step) for step in range(1, number + 1)]
                return per_step(lambda: [log(record) for record in made], number)

        return run

    many = 5 * records
    competitors = {
        _LINES: sample(lambda: _lines(folder), many),
        "expkit journal": sample(lambda: _journal(folder), many),
        "expkit journal and trackio": sample(lambda: _delivery(folder, TrackioTracker), records),
        "expkit journal and wandb": sample(lambda: _delivery(folder, WandbTracker), records),
        "expkit journal and tensorboard": sample(lambda: _delivery(folder, TensorBoardTracker), records),
        "expkit journal and all three": sample(lambda: _delivery(folder, *_ALL), records),
    }
    return compare(competitors, _LINES, "us per record", rounds)


def steps(folder: Path, number: int, rounds: int) -> Comparison:
    """Return the microseconds of a step of about 10 ms, with a record every 10 steps."""
    matrix = torch.rand(256, 256)
    began = time.perf_counter()
    for _ in range(100):
        matrix @ matrix
    products = max(1, round(0.01 / ((time.perf_counter() - began) / 100)))

    def sample(opened: Any) -> Callable[[], float]:
        def run() -> float:
            with opened() as log:

                def loop() -> None:
                    for step in range(1, number + 1):
                        for _ in range(products):
                            matrix @ matrix
                        if step % 10 == 0:
                            log(_record(step))

                return per_step(loop, number)

        return run

    competitors = {
        _STEP: sample(lambda: contextlib.nullcontext(lambda _: None)),
        "expkit: journal, wandb, trackio, tensorboard": sample(lambda: _delivery(folder, *_ALL)),
        "wandb, trackio and `SummaryWriter` called directly": sample(lambda: _all_bare(folder)),
    }
    return compare(competitors, _STEP, "us per step", rounds, shuffle=0)


def measure(records: int = 2000, rounds: int = 3, number: int = 200, step_rounds: int = 5) -> Tables:
    """Measure everything."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        # trackio reads it once, when it is imported.
        os.environ["TRACKIO_DIR"] = f"{name}/trackio"
        try:
            stepped = steps(Path(name), number, step_rounds)
            burst = bursts(Path(name), records, rounds)
        finally:
            torch.set_num_threads(threads)
    base, ours, bare = stepped.rows()
    remark = (
        f"What is added to a step of {base.median / 1000:.1f} ms: {100 * (ours.ratio - 1):.2f} % with expkit, "
        f"{100 * (bare.ratio - 1):.2f} % with the tools called directly."
    )
    return Tables({"In a burst": burst, "Steps": stepped}, remark)


def goals(result: Tables) -> list[Goal]:
    """Return the goals: a quick journal, and trackers that are hardly felt."""
    journal = next(row.median for row in result.tables["In a burst"].rows() if row.name == "expkit journal")
    _, ours, bare = result.tables["Steps"].rows()
    return [
        Goal("100,000 records in the journal within 0.6 s", f"{journal / 10:.2f} s", journal <= 6),
        Goal(
            "all trackers: at most 1 % of a step of 10 ms",
            f"{100 * (ours.ratio - 1):+.2f} %, with the tools called directly {100 * (bare.ratio - 1):+.2f} %",
            ours.ratio <= 1.01,
            f"the tools themselves work beside training, in threads of its process: called directly they add "
            f"{bare.difference:+.0f} us (quartiles {bare.difference_q1:+.0f} to {bare.difference_q3:+.0f}), expkit "
            f"{ours.difference:+.0f} ({ours.difference_q1:+.0f} to {ours.difference_q3:+.0f})",
        ),
    ]
