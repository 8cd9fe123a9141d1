"""Competitors that take turns, and the arithmetic on what they took."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from expkit import __version__
from expkit.environment import hardware

__all__ = ["Comparison", "Goal", "Row", "Tables", "compare", "header", "per_step"]


@dataclass(frozen=True)
class Row:
    """One competitor's line of a table.

    Attributes:
        name: who.
        median, q1, q3: of its own samples.
        difference, difference_q1, difference_q3: median and quartiles of (its sample - the baseline's of that round).
        ratio: median of (its sample / the baseline's of the same round).
    """

    name: str
    median: float
    q1: float
    q3: float
    difference: float
    difference_q1: float
    difference_q3: float
    ratio: float


@dataclass(frozen=True)
class Comparison:
    """What was measured: name -> one sample per round, so that samples of one round belong together."""

    unit: str
    baseline: str
    samples: Mapping[str, Sequence[float]]

    def rows(self) -> list[Row]:
        """Return a row for each competitor, in the order in which they were given."""
        base = self.samples[self.baseline]
        rows = []
        for name, own in self.samples.items():
            differences = [one - other for one, other in zip(own, base, strict=True)]
            ratio = statistics.median(one / other for one, other in zip(own, base, strict=True))
            rows.append(Row(name, *_quartiles(own), *_quartiles(differences), ratio))
        return rows

    def markdown(self) -> str:
        """Return the rows as a Markdown table."""
        count = len(self.samples[self.baseline])
        rounds = f"{count} round{'s' * (count != 1)}"
        lines = [
            f"| {rounds}, {self.unit} | median | quartiles | over the baseline, median | quartiles | ratio |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for row in self.rows():
            own = f"| {row.name} | {_digits(row.median)} | {_digits(row.q1)} to {_digits(row.q3)} "
            if row.name == self.baseline:
                lines.append(own + "| baseline | | 1 |")
                continue
            between = f"{_digits(row.difference_q1, '+')} to {_digits(row.difference_q3, '+')}"
            lines.append(own + f"| {_digits(row.difference, '+')} | {between} | {row.ratio:.2f} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Tables:
    """Several comparisons, one below the other: title -> comparison, and a remark below them."""

    tables: Mapping[str, Comparison]
    remark: str = ""

    def markdown(self) -> str:
        """Return all of it as Markdown."""
        parts = [f"{title}:\n\n{table.markdown()}" for title, table in self.tables.items()]
        return "\n\n".join([*parts, *filter(None, [self.remark])])


@dataclass(frozen=True)
class Goal:
    """What a benchmark is to show. A benchmark with goals has a function `goals(result)` that returns them.

    Attributes:
        text: the goal.
        measured: what came out, with its unit.
        met: whether that is it.
        reason: if not, why.
    """

    text: str
    measured: str
    met: bool
    reason: str = ""


def compare(
    competitors: Mapping[str, Callable[[], float]],
    baseline: str,
    unit: str,
    rounds: int = 11,
    warmup: int = 1,
    shuffle: int | None = None,
) -> Comparison:
    """Let competitors take turns: A B C, A B C, ... Nothing is left out but the first `warmup` rounds.

    Args:
        competitors: name -> what does the work once and returns its sample, in `unit`. It may start a process.
        baseline: the name that the others are compared with.
        unit: of the samples, for the table's head.
        rounds: samples of each.
        warmup: rounds before that, thrown away.
        shuffle: seed of a new order in every round; None keeps the order given.

    Raises:
        ValueError: there is no such baseline, or no round.
    """
    if baseline not in competitors:
        raise ValueError(f"baseline {baseline!r} is none of {', '.join(competitors)}")
    if rounds < 1:
        raise ValueError(f"{rounds} rounds give no sample: take at least 1")
    samples: dict[str, list[float]] = {name: [] for name in competitors}
    generator = random.Random(shuffle)
    for number in range(-warmup, rounds):
        order = list(competitors)
        if shuffle is not None:
            generator.shuffle(order)
        for name in order:
            sample = competitors[name]()
            if number >= 0:
                samples[name].append(sample)
    return Comparison(unit, baseline, samples)


def per_step(work: Callable[[], object], steps: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the microseconds that each of the `steps` in `work` took."""
    began = clock()
    work()
    return (clock() - began) / steps * 1e6


def header(threads: str, *packages: str) -> str:
    """Return one line: date, machine, `threads`, load, and the versions of Python, expkit, torch and `packages`."""
    machine = hardware()
    versions = [f"Python {platform.python_version()}", f"expkit {__version__}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in ("torch", *packages)]
    cores = machine["cpu_count"]
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return f"{date.today()}, {machine['cpu']}, {cores} cores, {threads}, {load}; {', '.join(versions)}."


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, lower and upper quartile (linear interpolation, as numpy.quantile has it)."""
    if len(values) == 1:
        return (values[0],) * 3
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return middle, lower, upper


def _digits(value: float, sign: str = "") -> str:
    return format(value, f"{sign}.{1 if abs(value) >= 10 else 2}f")
