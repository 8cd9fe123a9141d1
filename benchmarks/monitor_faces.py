"""What looking at a run of a million records costs: one function for each face."""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks.harness import Goal
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.record import Record

__all__ = ["TEXT", "THREADS", "measure", "measure_terminal", "write_run"]

RECORDS = 1_000_000
REFRESHES = 10
THREADS = "one thread"
TEXT = """\
`expkit monitor` on a journal of 1,000,000 records of 8 metrics, each row in a process of its own. *Cold*: there is no
sidecar index; *warm*: there is one. *First picture*: from the start of the process until it is drawn, imports included.
A refresh reads 10 new records and draws everything again: CPU time (`time.process_time`), mean of 10. Resident: the
most that the process had (`VmHWM`).

*Terminal*: four panels, colours, the text with its escape codes as it is written. *Window*: four panels, Tk on a
display of 1,400 x 1,000 pixels, each drawing until it is shown."""

#: The most memory that a process had, in MB. `ru_maxrss` would count the one that has started it.
_PEAK = """
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
"""

_TERMINAL = """
import json, sys, time
from expkit.journal import Journal
from expkit.monitor import TrainingMonitor
from expkit.monitor.terminal.controls import Controls
from expkit.monitor.terminal.dashboard import draw_frame
from expkit.monitor.terminal.look import Look
from expkit.record import Record
run, refreshes, began = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
look, controls = Look(colours="256"), Controls()
def draw(size):
    monitor.refresh()
    return look.render(draw_frame(monitor, controls, look, size), size[0])
with TrainingMonitor(run) as monitor:
    draw((80, 24))
    found = {"first": time.time() - began}
    last = dict(monitor.feeds[0].last)
    step = int(last.pop("step"))
    metrics = {name: value for name, value in last.items() if name not in ("time", "epoch")}
    for size in ((80, 24), (200, 60)):
        took = 0.0
        for number in range(refreshes):
            with Journal(monitor.feeds[0].run.metrics) as journal:
                for _ in range(10):
                    step += 1
                    journal.write(Record(step, 1, time.time(), metrics))
            before = time.process_time()
            draw(size)
            took += time.process_time() - before
        found[f"{size[0]}x{size[1]}"] = 1000 * took / refreshes
found["resident"] = peak()
found["torch"] = "torch" in sys.modules
print(json.dumps(found))
"""

_WINDOW = """
import json, sys, time
from expkit.journal import Journal
from expkit.monitor import TrainingMonitor
from expkit.monitor.window import _load_backend, _Window
from expkit.record import Record
run, refreshes, began = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
plt = _load_backend()
with TrainingMonitor(run) as monitor:
    monitor.refresh()
    figure = plt.figure(figsize=(13, 8.4))
    window = _Window(monitor, figure, 3600, "dark")
    window.start()
    figure.canvas.flush_events()
    found = {"first": time.time() - began}
    last = dict(monitor.feeds[0].last)
    step = int(last.pop("step"))
    metrics = {name: value for name, value in last.items() if name not in ("time", "epoch")}
    took = 0.0
    for number in range(refreshes):
        with Journal(monitor.feeds[0].run.metrics) as journal:
            for _ in range(10):
                step += 1
                journal.write(Record(step, 1, time.time(), metrics))
        before = time.process_time()
        window._look()
        figure.canvas.flush_events()
        took += time.process_time() - before
        if figure.axes[0].get_xlim()[1] < step:
            raise RuntimeError("the window does not show the last step")
    found["refresh"] = 1000 * took / refreshes
found["panels"] = len(figure.axes)
found["resident"] = peak()
found["torch"] = "torch" in sys.modules
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Figures:
    """What was measured: (what, figure) in the order of the table."""

    rows: Sequence[tuple[str, float]]

    def markdown(self) -> str:
        """Return the figures as a Markdown table."""
        return "\n".join(["| what | |", "|---|---:|", *(f"| {what} | {figure:.2f} |" for what, figure in self.rows)])


def measure(records: int = RECORDS, refreshes: int = REFRESHES) -> Figures:
    """Return what each face costs. Linux only."""
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder) / "run", records)
        rows = measure_terminal(run, refreshes)
        with _display() as display:
            if display is not None:
                rows += measure_window(run, refreshes, display)
        return Figures(rows)


def write_run(root: Path, records: int) -> RunDir:
    """Write a journal of so many records of 8 metrics, and return its run."""
    run = RunDir(root)
    run.logs.mkdir(parents=True)
    run.config.write_text("{}")
    noise = random.Random(0)
    with Journal(run.metrics) as journal:
        for step in range(1, records + 1):
            level = 5 * math.exp(-4 * step / records) + noise.gauss(0.2, 0.05)
            values = {f"metric_{number}": level + number for number in range(5)}
            values |= {"train_loss": level, "gradient_norm": 2 * level, "learning_rate": 1e-3}
            journal.write(Record(step, 1, 1.7e9 + step, values), flush=step % 1000 == 0)
    return run


def measure_terminal(run: RunDir, refreshes: int) -> list[tuple[str, float]]:
    """Return the rows of the terminal's face."""
    found = {}
    for name in ("cold", "warm"):
        found[name] = _in_a_process(_TERMINAL, run, refreshes)
        if found[name]["torch"]:
            raise RuntimeError("the terminal's face has imported torch")
    warm = found["warm"]
    return [
        ("terminal: first picture, cold, seconds", found["cold"]["first"]),
        ("terminal: first picture, warm, seconds", warm["first"]),
        ("terminal: a refresh at 80 x 24, ms of CPU", warm["80x24"]),
        ("terminal: a refresh at 200 x 60, ms of CPU", warm["200x60"]),
        ("terminal: resident memory, cold, MB", found["cold"]["resident"]),
        ("terminal: resident memory, warm, MB", warm["resident"]),
    ]


def measure_window(run: RunDir, refreshes: int, display: str) -> list[tuple[str, float]]:
    """Return the rows of the window's face; the sidecar index is there from the terminal's."""
    warm = _in_a_process(_WINDOW, run, refreshes, display)
    if warm["torch"] or warm["panels"] != 4:
        raise RuntimeError(f"the window has imported torch, or has not four panels: {warm}")
    return [
        ("window: first picture, warm, seconds", warm["first"]),
        ("window: a refresh, ms of CPU", warm["refresh"]),
        ("window: resident memory, warm, MB", warm["resident"]),
    ]


def goals(figures: Figures) -> list[Goal]:
    """Return the goals for a million records: soon there, quick to draw again, in little memory."""
    found = dict(figures.rows)
    wanted = [
        ("first picture within 3 s, with an index", "first picture, warm, seconds", "s", {}, 3.0),
        ("first picture within 10 s, without an index", "first picture, cold, seconds", "s", {}, 10.0),
        ("a refresh within 100 ms of CPU, of the window 300", "ms of CPU", "ms", {"window": 300.0}, 100.0),
        ("under 200 MB", "MB", "MB", {}, 200.0),
    ]
    goals = []
    for text, ending, unit, others, most in wanted:
        rows = {name: figure for name, figure in found.items() if name.endswith(ending)}
        shown = ", ".join(f"{name.rpartition(',')[0]} {figure:.3g} {unit}" for name, figure in rows.items())
        met = all(figure < others.get(name.partition(":")[0], most) for name, figure in rows.items())
        goals.append(Goal(text, shown, met))
    return goals


@contextmanager
def _display() -> Iterator[str | None]:
    """Start a virtual display, or give None where there is no Xvfb."""
    if shutil.which("Xvfb") is None:
        yield None
        return
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1000x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL) as server:
        os.close(write)
        try:
            with os.fdopen(read) as numbers:
                yield f":{numbers.readline().strip()}"
        finally:
            server.terminate()


def _in_a_process(code: str, run: RunDir, refreshes: int, display: str = "") -> dict[str, float]:
    arguments = [str(run.root), str(refreshes), str(time.time())]
    done = subprocess.run(
        [sys.executable, "-c", _PEAK + code, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DISPLAY": display, "MPLBACKEND": ""},
    )
    made: dict[str, float] = orjson.loads(done.stdout)
    return made
