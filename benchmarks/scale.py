"""A long run: what a step costs when there were a million before it, and whether memory grows."""

from __future__ import annotations

import bisect
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import torch
from torch import nn

from benchmarks.harness import Goal
from benchmarks.memory import malloc_bytes, slope
from expkit.experiment import RunDir
from expkit.files import write_json
from expkit.journal import read_journal
from train.tasks.base import StepOutput, Task

__all__ = ["TEXT", "THREADS", "Result", "Tiny", "measure"]

THREADS = "torch on 1 thread"

STEPS = 1_000_000
WINDOW = 10_000
PLACES = (10, 1000, 100_000, STEPS - WINDOW)
SEGMENTS = 20

TEXT = f"""\
`python -m train` with its standard parts (checkpoints, detectors, evaluation after each epoch of 10,000 steps, the look
at the machine; no tracker, no pictures) trains one linear layer, 8 to 4, on ready-made batches of 4 for {STEPS:,}
steps, so that nearly all of a step is what expkit does. It logs every 10 steps; the times in its journal say what a
step costs: the median over the intervals of 10 steps within {WINDOW:,} steps, and their mean, which has checkpoints in
it. Right after it a fresh run of {2 * WINDOW:,} steps says how fast the machine is then. *CPU* is that of the whole
process, all its threads.

Memory is the resident size of the process, looked at twice a second. Its slope is that of a line through the means of
{SEGMENTS} parts of the last 70 % of the run, by least squares; the standard error follows from how far they lie from
that line. The resident size has what the C allocator keeps in reserve. What is in use is asked of it ten times, after a
collection of garbage, from the same part of the run on (of glibc alone; Python's small objects are counted, each a
block). A run keeps its entry in results.json of each evaluation, about 1 KB."""
_ROOT = Path(__file__).resolve().parent.parent
_EPOCH = 10_000
#: What of a run is passed over before its memory is looked at: buffers fill.
_WARM = 0.3


class _Ready:
    """The same batch, again and again; `begin` is called before each epoch."""

    def __init__(self, count: int, begin: Callable[[], None] = lambda: None) -> None:
        self._batch = (torch.randn(4, 8), torch.randn(4, 4))
        self._count, self._begin = count, begin

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self._begin()
        return (self._batch for _ in range(self._count))


class Tiny(Task):
    """The least that can be trained.

    Args:
        steps: of the run.
        in_use: file in which what memory is in use is noted.
    """

    def __init__(self, steps: int, in_use: str) -> None:
        self._from, self._every = _WARM * steps, max(_EPOCH, int((1 - _WARM) * steps / 10))
        self._file = Path(in_use)
        self._begun = 0

    def build_model(self) -> nn.Module:
        """Return one linear layer."""
        return nn.Linear(8, 4)

    def train_data(self) -> _Ready:
        """Return an epoch of ready-made batches."""
        return _Ready(_EPOCH, self._look)

    def _look(self) -> None:
        step, self._begun = self._begun * _EPOCH, self._begun + 1
        if step >= self._from and step % self._every < _EPOCH:
            gc.collect()
            if (size := malloc_bytes()) is not None:
                with self._file.open("a") as file:
                    file.write(f"{step} {size} {sys.getallocatedblocks()}\n")

    def val_data(self) -> _Ready:
        """Return one batch."""
        return _Ready(1)

    def step(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> StepOutput:
        """Return the mean squared error."""
        inputs, targets = batch
        return StepOutput((model(inputs) - targets).square().mean(), {}, len(inputs))


@dataclass(frozen=True)
class Run:
    """A run as seen from outside.

    Attributes:
        steps, times: of its records; seconds.
        seen: (seconds, resident MB, CPU seconds so far) of the process.
        in_use: (step, bytes of the C allocator, blocks of Python's) now and then.
    """

    steps: Sequence[int]
    times: Sequence[float]
    seen: Sequence[tuple[float, float, float]]
    in_use: Sequence[tuple[int, int, int]] = ()

    def costs(self, after: int, window: int) -> list[float]:
        """Return the microseconds of a step in each interval between records within a window."""
        return [
            (late - early) / (last - first) * 1e6
            for (first, early), (last, late) in pairwise(zip(self.steps, self.times, strict=True))
            if first >= after and last <= after + window
        ]


@dataclass(frozen=True)
class Result:
    """A long run, and a short one right after it; `places` are those at which to look."""

    long: Run
    fresh: Run
    places: Sequence[int]
    window: int

    def medians(self) -> dict[str, float]:
        """Return where -> microseconds of a step."""
        found = {f"after {place:,}": statistics.median(self.long.costs(place, self.window)) for place in self.places}
        return found | {"fresh run": statistics.median(self.fresh.costs(self.window, self.window))}

    def tenths(self) -> tuple[float, float]:
        """Return the microseconds of CPU of a step in the first and in the last tenth of the long run's time."""
        run = self.long
        seen = [look for look in run.seen if run.times[0] <= look[0] <= run.times[-1]]
        size = max(1, len(seen) // 10)

        def cost(early: tuple[float, float, float], late: tuple[float, float, float]) -> float:
            steps = [run.steps[bisect.bisect_left(run.times, look[0])] for look in (early, late)]
            return (late[2] - early[2]) / (steps[1] - steps[0]) * 1e6

        return cost(seen[0], seen[size]), cost(seen[-1 - size], seen[-1])

    def memory(self) -> tuple[float, float]:
        """Return the growth in KB for 100,000 steps, and its standard error."""
        began, ended = self.long.times[0], self.long.times[-1]
        warm = began + _WARM * (ended - began)
        known = [(at, size) for at, size, _ in self.long.seen if warm <= at <= ended]
        rate, error = slope(known, SEGMENTS)  # MB per second
        scale = 1024 * 1e5 * (ended - began) / (self.long.steps[-1] - self.long.steps[0])
        return rate * scale, error * scale

    def in_use(self) -> str:
        """Return how what is in use grew in 100,000 steps, in words."""
        known = [look for look in self.long.in_use if look[0] >= _WARM * self.long.steps[-1]]
        if len(known) < 2:
            return "not known"
        (first, *before), (last, *after) = known[0], known[-1]
        size, blocks = ((late - early) / (last - first) * 1e5 for early, late in zip(before, after, strict=True))
        return f"{size / 1024:+.1f} KB of the C allocator's, {blocks:+.0f} blocks of Python's"

    def markdown(self) -> str:
        """Return the figures as Markdown tables."""
        lines = ["| steps | us per step, median | mean |", "|---|---:|---:|"]
        means = [statistics.fmean(self.long.costs(place, self.window)) for place in self.places]
        means.append(statistics.fmean(self.fresh.costs(self.window, self.window)))
        for (name, median), mean in zip(self.medians().items(), means, strict=True):
            lines.append(f"| {name} | {median:.1f} | {mean:.1f} |")
        growth, error = self.memory()
        sizes = [size for _, size, _ in self.long.seen]
        first, last = self.tenths()
        minutes = (self.long.times[-1] - self.long.times[0]) / 60
        remark = (
            f"{self.long.steps[-1]:,} steps in {minutes:.1f} minutes, {len(self.long.steps):,} records. CPU: "
            f"{first:.1f} us a step in the first tenth of it, {last:.1f} us in the last. Memory: "
            f"{statistics.median(sizes):.0f} MB in the median, {max(sizes):.0f} MB at most; slope {growth:+.1f} KB in "
            f"100,000 steps, standard error {error:.1f} KB; in use: {self.in_use()}."
        )
        return "\n".join(lines) + f"\n\n{remark}"


def measure(steps: int = STEPS, window: int = WINDOW, places: Sequence[int] = PLACES) -> Result:
    """Train a long run and a short one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long = train(folder / "long", steps)
        return Result(long, train(folder / "fresh", 2 * window), places, window)


def train(folder: Path, steps: int) -> Run:
    """Train the tiny task in a process of its own, and return what was seen of it."""
    (folder / "conf" / "task").mkdir(parents=True)
    task = {"_target_": "benchmarks.scale.Tiny", "steps": steps, "in_use": str(folder / "in_use")}
    write_json(folder / "conf" / "task" / "tiny.yaml", task)
    (folder / "in_use").touch()
    command = [sys.executable, "-m", "train", "--config-dir", str(folder / "conf"), "task=tiny", "optimizer=sgd"]
    command += ["tracker=[]", "plots=[]", "trainer.max_epochs=null", f"trainer.max_steps={steps}", "run.id=run"]
    command += ["trainer.log_interval=10", "trainer.device=cpu", "trainer.threads=1", f"run.outputs={folder}"]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    seen = []
    with (
        (folder / "output").open("w") as output,  # not a pipe: nobody reads it meanwhile, and a full one stops the run
        subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            cpu = watched.cpu_times()
            seen.append((time.time(), watched.memory_info().rss / 2**20, cpu.user + cpu.system))
            time.sleep(0.5)
    if process.returncode:
        raise RuntimeError(f"the run has failed: {(folder / 'output').read_text()[-2000:]}")
    entries = [(entry["step"], entry["time"]) for entry in read_journal(RunDir(folder / "run").metrics)]
    looks = [tuple(map(int, line.split())) for line in (folder / "in_use").read_text().splitlines()]
    return Run(*zip(*entries, strict=True), seen, looks)


def goals(result: Result) -> list[Goal]:
    """Return the goals: as quick after a million steps, in as much memory."""
    medians = result.medians()
    *_, last, fresh = medians.values()
    shown = ", ".join(f"{name} {cost:.0f}" for name, cost in medians.items())
    first, later = result.tenths()
    growth, error = result.memory()
    return [
        Goal(
            f"a step costs the same after {STEPS:,}: within 10 % of a fresh run's",
            f"us: {shown}; of CPU {first:.0f} in the first tenth, {later:.0f} in the last",
            last < 1.1 * fresh,
        ),
        Goal(
            "memory: the slope is zero within twice its standard error",
            f"{growth:+.1f} KB in 100,000 steps, standard error {error:.1f} KB; in use: {result.in_use()}",
            abs(growth) <= 2 * error,
            "what is not in use is what the allocator keeps in reserve",
        ),
    ]
