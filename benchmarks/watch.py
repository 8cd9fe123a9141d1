"""What a watcher beside a run costs, and how soon it has taken a snapshot."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Goal
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.record import Record

__all__ = ["TEXT", "THREADS", "measure"]

RECORDS = 1_000_000
SECONDS = 10.0
SNAPSHOTS = 5
THREADS = "one thread"
TEXT = """\
`expkit watch RUN` with its own detectors in a process of its own, beside a journal of 1,000,000 records of six
metrics (no training). First it reads all of them; then nothing happens for 10 seconds; then 10 records a second are
written for 10 seconds; then a loss 3 times as high is written, 5 times. CPU and memory are the process's own (`/proc`).
*From record to snapshot*: from before the journal's line is written until the snapshot's folder is there; there is no
checkpoint in it."""

_dice = random.Random(0)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _Figures:
    records: int
    read_cpu: float
    peak: float
    resident: float
    idle: float
    following: float
    snapshots: list[float]

    def markdown(self) -> str:
        """Return the figures as a Markdown table."""
        return "\n".join(
            [
                "| what | |",
                "|---|---:|",
                f"| reading {self.records:,} records, seconds of CPU | {self.read_cpu:.1f} |",
                f"| resident memory, peak, MB | {self.peak:.1f} |",
                f"| resident memory, following, MB | {self.resident:.1f} |",
                f"| idle, % of one core | {self.idle:.2f} |",
                f"| following 10 records a second, % of one core | {self.following:.2f} |",
                f"| from record to snapshot, seconds, median | {statistics.median(self.snapshots):.2f} |",
                f"| from record to snapshot, seconds, longest | {max(self.snapshots):.2f} |",
            ]
        )


def measure(records: int = RECORDS, seconds: float = SECONDS, snapshots: int = SNAPSHOTS) -> _Figures:
    """Return what a watcher costs. Linux only."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder) / "run")
        run.logs.mkdir(parents=True)
        run.config.write_text("{}")
        with Journal(run.metrics) as journal:
            for step in range(1, records + 1):
                journal.write(_record(step, time.time() - 86400), flush=step % 1000 == 0)
        command = [sys.executable, "-m", "expkit", "watch", str(run.root), "detectors.loss_spike.cooldown=0"]
        with subprocess.Popen([*command, "--min-steps-between-saves", "1"], stdout=subprocess.DEVNULL) as process:
            try:
                return _watched(run, process.pid, records, seconds, snapshots)
            finally:
                process.terminate()


def goals(found: _Figures) -> list[Goal]:
    """Return the goals: hardly there, and soon to act."""
    return [
        Goal(
            "under 1 % of a core, idle and following 10 records a second",
            f"{found.idle:.2f} %, {found.following:.2f} %",
            max(found.idle, found.following) < 1,
        ),
        Goal("under 50 MB resident", f"{found.peak:.0f} MB at most", found.peak < 50),
        Goal("a snapshot within 1 s", f"{max(found.snapshots):.2f} s at the longest", max(found.snapshots) < 1),
    ]


def _watched(run: RunDir, pid: int, records: int, seconds: float, snapshots: int) -> _Figures:
    _wait(lambda: (run.logs / "watch_state.json").exists() and f'"step": {records},' in _text(run))
    read = _cpu(pid)
    time.sleep(1)
    idle = _share(pid, lambda: time.sleep(seconds))
    step = records
    with Journal(run.metrics) as journal:

        def follow() -> None:
            nonlocal step
            for _ in range(round(10 * seconds)):
                step += 1
                journal.write(_record(step, time.time()))
                time.sleep(0.1)

        following = _share(pid, follow)
        resident = _memory(pid, "VmRSS")
        took = []
        for number in range(snapshots):
            for loss in (9.0, *[3.0] * 10):
                step += 1
                began = time.perf_counter()
                journal.write(_record(step, time.time(), loss))
                if loss > 3.0:
                    _wait(lambda made=number + 1: _snapshots(run) >= made)  # type: ignore[misc]
                    took.append(time.perf_counter() - began)
    return _Figures(records, read, _memory(pid, "VmHWM"), resident, idle, following, took)


def _record(step: int, moment: float, loss: float | None = None) -> Record:
    values = {"train_loss": _dice.gauss(3, 0.1) if loss is None else loss, "gradient_norm": _dice.gauss(1, 0.1)}
    values |= {"val_accuracy": _dice.gauss(50, 1), "learning_rate": 1e-3, "memory/percent": 40.0}
    return Record(step, 1, moment, {**values, "tokens_per_sec": _dice.gauss(1e5, 100)})


def _text(run: RunDir) -> str:
    return (run.logs / "watch_state.json").read_text()


def _snapshots(run: RunDir) -> int:
    return len(list(run.snapshots.glob("anomaly_*_loss_spike*")))


def _wait(for_what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not for_what():
        if time.monotonic() > deadline:
            raise TimeoutError("the watcher does not get on")
        time.sleep(0.005)


def _share(pid: int, work: Callable[[], object]) -> float:
    """Return the percent of one core that a process took during `work`."""
    before, began = _cpu(pid), time.perf_counter()
    work()
    return 100 * (_cpu(pid) - before) / (time.perf_counter() - began)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
