"""Keeping the records of a run: written, read back, followed, and how large they are, beside other tools."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.harness import Comparison, Goal, Tables, compare
from benchmarks.tools import TensorBoard, Tool, Trackio, Wandb, Written
from expkit.experiment import RunDir
from expkit.journal import Journal, read_journal
from expkit.reading.feed import RunFeed
from expkit.record import Record

__all__ = ["TEXT", "THREADS", "Result", "measure"]

THREADS = "one thread"

#: How many records each tool gets in a round: what it can take in some seconds.
RECORDS: Mapping[type[Tool], int] = {Written: 100_000, Trackio: 50_000, Wandb: 10_000, TensorBoard: 10_000}
MANY = 1_000_000
#: Seconds after which a record that is not seen counts as that late.
PATIENCE = 5.0

_dice = random.Random(0)

TEXT = f"""\
Each tool alone, each with a run of its own, as its documentation uses it; a record has four numbers, random ones but
for the learning rate. *Logging*: what the loop waits for, one call after the other. *Until all is kept*: the same, and
until everything is in the tool's file and its run is closed. *Reading back*: every step and value of one metric, by the
tool's own reader: `read_journal`, trackio's `SQLiteStorage.get_logs`, TensorBoard's `EventAccumulator` that drops none.
wandb's package has no reader of what it writes offline; expkit's was taken. All are rates, from as many records as are
said: those of wandb and tensorboard are few, so that this ends in time. *Following*: from before a record is logged
until the tool's reader, asked every millisecond in the same process, sees it; a record is logged whenever the one
before was seen, or {PATIENCE:.0f} seconds have passed. tensorboard is told to flush after each record (it would do so
every 120 seconds); wandb writes a block when it is full. *Size*: what holds the records, closed.

The last table is of a journal of {MANY:,} records. *Every record*: `read_journal`, all that is in them. *Curves*: what
`expkit monitor`, `compare` and `report` read, of all metrics, without and with the sidecar index of an earlier reading.
Writing makes the journal with each line handed to the operating system."""


@dataclass(frozen=True)
class Result:
    """What was measured: name of the tool -> samples or figures; and of a journal of so many records."""

    logging: Comparison
    keeping: Comparison
    reading: Comparison
    following: Mapping[str, Sequence[float]]
    sizes: Mapping[str, float]
    many: Mapping[str, float]
    records: int

    def markdown(self) -> str:
        """Return all of it as Markdown."""
        lines = ["| following, ms | median | longest | bytes of a record |", "|---|---:|---:|---:|"]
        for name, lags in self.following.items():
            lines.append(f"| {name} | {_late(statistics.median(lags))} | {_late(max(lags))} | {self.sizes[name]:.0f} |")
        many = [f"| a journal of {self.records:,} records | seconds |", "|---|---:|"]
        many += [f"| {name} | {seconds:#.3g} |" for name, seconds in self.many.items()]
        tables = {"Logging": self.logging, "Until all is kept": self.keeping, "Reading back": self.reading}
        return "\n\n".join([Tables(tables).markdown(), "\n".join(lines), "\n".join(many)])


def measure(records: Mapping[type[Tool], int] = RECORDS, rounds: int = 3, follow: int = 12, many: int = MANY) -> Result:
    """Measure everything.

    Args:
        records: tool -> records in a round.
        rounds: samples of each.
        follow: records that are followed.
        many: records of the long journal.
    """
    with tempfile.TemporaryDirectory() as name:
        os.environ["TRACKIO_DIR"] = f"{name}/trackio"  # read once, when trackio is imported
        folder = Path(name)
        names = {kind: f"{kind.name}, {count:,} records" for kind, count in records.items()}
        kept: dict[str, list[float]] = {each: [] for each in names.values()}
        read: dict[str, list[float]] = {each: [] for each in names.values()}
        sizes: dict[str, float] = {}

        def once(kind: type[Tool], count: int) -> float:
            tool = kind(folder)
            logged, closed = _seconds_of_writing(tool, count)
            began = time.perf_counter()
            curve = tool.curve("train_loss")
            read[names[kind]].append((time.perf_counter() - began) / count * 1e6)
            if [step for step, _ in curve] != list(range(1, count + 1)):
                raise RuntimeError(f"{kind.name} gave {len(curve)} of {count} values back, or in another order")
            kept[names[kind]].append(closed / count * 1e6)
            sizes[kind.name] = tool.size() / count
            return logged / count * 1e6

        competitors = {names[kind]: partial(once, kind, count) for kind, count in records.items()}
        baseline = names[Written]
        logging = compare(competitors, baseline, "us per record", rounds, warmup=0)
        return Result(
            logging,
            Comparison("us per record", baseline, kept),
            Comparison("us per record", baseline, read),
            {kind.name: following(kind(folder), follow) for kind in records},
            sizes,
            long_journal(folder / "long", many),
            many,
        )


def following(tool: Tool, count: int) -> list[float]:
    """Return how many milliseconds each of `count` records took until the reader saw it."""
    lags = []
    for step in range(1, count + 1):
        began = time.perf_counter()
        tool.log(record(step))
        tool.shown()
        while tool.last() < step and time.perf_counter() - began < PATIENCE:
            time.sleep(0.001)
        lags.append((time.perf_counter() - began) * 1e3)
        if lags[-1] >= PATIENCE * 1e3:
            break  # the next would not be seen sooner
        time.sleep(0.5 * _dice.random())  # so that no timer of a tool is met at the same moment each time
    tool.close()
    return lags


def long_journal(root: Path, count: int) -> dict[str, float]:
    """Return the seconds that writing and reading a long journal take."""
    run = RunDir(root)
    run.logs.mkdir(parents=True)
    made = [record(step) for step in range(1, count + 1)]

    def write(records: Sequence[Record]) -> None:
        with Journal(run.metrics) as journal:
            for each in records:
                journal.write(each)

    def curves(index: bool) -> None:
        feed = RunFeed(run, index)
        feed.refresh()
        if len(feed.curves["train_loss"].line()[0]) < 2:
            raise RuntimeError("the curve is not there")
        feed.close()

    found = {"writing": _timed(lambda: write(made))}
    made.clear()
    found["every record"] = _timed(lambda: sum(1 for _ in read_journal(run.metrics)))
    found["curves, without an index"] = _timed(lambda: curves(False))
    curves(True)
    return found | {"curves, with the index": _timed(lambda: curves(True))}


def record(step: int) -> Record:
    """Return a record of four numbers."""
    values = {"train_loss": 2 + _dice.random(), "val_loss": 2 + _dice.random(), "learning_rate": 1e-3}
    return Record(step, 1, time.time(), {**values, "gradient_norm": _dice.random()})


def goals(result: Result) -> list[Goal]:
    """Return the goal: fastest in each, and smallest."""
    found = []
    for text, table in (
        ("100,000 writes: fastest", result.keeping),
        ("reading back: fastest, for a record", result.reading),
    ):
        ours, *others = table.rows()
        best = min(others, key=lambda row: row.ratio)
        measured = f"{ours.median:.1f} us a record; next: {best.name.partition(',')[0]}, {best.median:.1f} us"
        found.append(Goal(text, measured, best.ratio > 1))
    lags = {name: statistics.median(each) for name, each in result.following.items()}
    for text, figures, unit in (
        ("following: first to see a record", lags, "ms"),
        ("size: smallest", result.sizes, "bytes a record"),
    ):
        (_, ours), *others = figures.items()
        name, least = min(others, key=lambda item: item[1])
        found.append(Goal(text, f"{ours:.3g} {unit}; next: {name}, {least:.3g}", ours < least))
    return found


def _seconds_of_writing(tool: Tool, count: int) -> tuple[float, float]:
    """Return the seconds until `count` records were logged, and until they were kept."""
    made = [record(step) for step in range(1, count + 1)]
    began = time.perf_counter()
    for each in made:
        tool.log(each)
    logged = time.perf_counter() - began
    tool.close()
    return logged, time.perf_counter() - began


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _late(milliseconds: float) -> str:
    limit = PATIENCE * 1e3
    return f"over {limit:,.0f}" if milliseconds >= limit else f"{milliseconds:.2f}"
