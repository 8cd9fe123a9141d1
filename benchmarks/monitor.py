"""Looking at a run of a million records: what each face of `expkit monitor` costs, beside TensorBoard."""

from __future__ import annotations

import http.client
import math
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import psutil

from benchmarks.browser import Browser, chromium
from benchmarks.harness import Comparison, Goal, compare
from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.record import Record

__all__ = ["TEXT", "THREADS", "measure"]

RECORDS = 1_000_000
ROUNDS = 1
REFRESHES = 10
SPIKES = 10
THREADS = "one thread each"
TEXT = """\
`expkit monitor RUN --web` and `tensorboard --logdir RUN` (with its fast data server and `--reload_interval 1`) on the
same 1,000,000 records of eight metrics, in processes of their own; the files are in the page cache. *Until all is
served*: from the start of the process until the last step is served; *until it is drawn*: until headless Chromium,
which runs already, has drawn curves, which then grow until all is read. *Cold* is without the sidecar index, *warm*
with it. *A refresh*: ten records are written, the client asks every 0.1 s until they are served, then for three panels;
CPU and memory are those of the process and its children. *Spikes*: of ten values that are high at one step, how many
are in the answer for the whole curve.

TensorBoard keeps 1,000 values of each metric, drawn at random, unless told otherwise: it cannot show a spike
that is not in the sample, nor more values when somebody zooms. It does not show whether a run lives, when it ends, its
alerts, or what the machine is filled to."""

_METRICS = ("train_loss", "gradient_norm", "train_accuracy", "learning_rate", "samples_per_sec", "step_time_ms",
            "gpu/0/compute_util", "memory/percent")  # fmt: skip


@dataclass
class _Cost:
    """What one competitor took: a sample of each per round."""

    refresh_cpu: list[float] = field(default_factory=list)  # ms
    resident: list[float] = field(default_factory=list)  # MB
    spikes: list[int] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)  # s


@dataclass(frozen=True)
class _Figures:
    served: Comparison
    costs: dict[str, _Cost]

    def markdown(self) -> str:
        """Return the figures as Markdown tables."""
        lines = [
            "| median | CPU of a refresh, ms | resident, MB | until it is drawn, s | spikes shown |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, cost in self.costs.items():
            drawn = f"{statistics.median(cost.drawn):.1f}" if cost.drawn else "not measured"
            lines.append(
                f"| {name} | {statistics.median(cost.refresh_cpu):.1f} | {statistics.median(cost.resident):.0f} "
                f"| {drawn} | {statistics.median(cost.spikes):g} of {SPIKES} |"
            )
        return f"{self.served.markdown()}\n\n" + "\n".join(lines) + "\n"


def measure(records: int = RECORDS, rounds: int = ROUNDS, refreshes: int = REFRESHES) -> _Figures:
    """Return what faces of the monitor cost, and TensorBoard."""
    with tempfile.TemporaryDirectory() as folder, _browser() as browser:
        data = _Data(Path(folder), records)
        faces = {"web, cold": _web(data, False), "web, warm": _web(data, True), "TensorBoard": _tensorboard(data)}
        costs = {name: _Cost() for name in faces}
        competitors = {
            name: partial(_measured, face, data, costs[name], refreshes, browser) for name, face in faces.items()
        }
        served = compare(competitors, "TensorBoard", "seconds until all is served", rounds=rounds, warmup=0)
        return _Figures(served, costs)


def goals(figures: _Figures) -> list[Goal]:
    """Return the goals of a refresh: of the web page, beside TensorBoard."""
    ours, _, other = figures.costs.values()
    cpu, memory, theirs = (statistics.median(each) for each in (ours.refresh_cpu, ours.resident, other.refresh_cpu))
    shown = f"{cpu:.0f} ms of CPU, {memory:.0f} MB; TensorBoard {theirs:.0f} ms"
    return [Goal("1,000,000 records: a refresh of the page under 100 ms, 200 MB", shown, cpu < 100 and memory < 200)]


class _Data:
    """The same records as a journal and as TensorBoard's events."""

    def __init__(self, folder: Path, records: int) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.run = RunDir(folder / "run")
        self.run.logs.mkdir(parents=True)
        self.run.config.write_text("{}")
        self.events = folder / "events"
        self.events.mkdir()
        self.step = 0
        self._dice = random.Random(0)
        self.spikes = sorted(random.Random(1).sample(range(1000, records), SPIKES))
        self._writer = EventFileWriter(str(self.events))
        self._began = time.time() - records
        with Journal(self.run.metrics) as journal:
            self._write(journal, records, flush=False)

    def grow(self, count: int = 10) -> None:
        """Write more records, to both."""
        with Journal(self.run.metrics) as journal:
            self._write(journal, count, flush=True)

    def _write(self, journal: Journal, count: int, flush: bool) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        spikes = set(self.spikes)
        for _ in range(count):
            self.step += 1
            noise = self._dice.random()
            loss = 1000.0 if self.step in spikes else 5 / (1 + self.step / 1e4) + noise
            values = dict(
                zip(_METRICS, (loss, 2 * loss, noise, 1e-3, 1000 + noise, 10 + noise, 50.0, 40.0), strict=True)
            )
            moment = self._began + self.step
            journal.write(Record(self.step, 1, moment, values), flush=False)
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
            self._writer.add_event(Event(wall_time=moment, step=self.step, summary=summary))
        if flush:
            journal.flush()
        self._writer.flush()


@dataclass(frozen=True)
class _Face:
    """Something that serves the data.

    Attributes:
        command: arguments of Python that start it.
        port: where it listens.
        last: returns the last step that is served.
        curve: returns the steps of the loss that are served.
        panels: asks for what a page shows.
        drawn: JavaScript that is true once its page has drawn curves; "" where nobody looks.
        prepare: called before each start.
    """

    command: Sequence[str]
    port: int
    last: Callable[[], float]
    curve: Callable[[], list[float]]
    panels: Callable[[], None]
    drawn: str
    prepare: Callable[[], None]


def _web(data: _Data, warm: bool) -> _Face:
    port = _free_port()

    def prepare() -> None:
        if not warm:
            data.run.metrics.with_name("metrics.index.npz").unlink(missing_ok=True)

    def last() -> float:
        state = _get(port, "/api/state")
        return -math.inf if state["reading"] else float(state["runs"][0]["step"])

    def curve() -> list[float]:
        return list(_get(port, "/api/metrics?name=train_loss&points=2000")["values"][0]["steps"])

    def panels() -> None:
        usual = _get(port, "/api/state")["panels"]
        _get(port, "/api/panels?bins=400&" + "&".join(f"panel={name}" for name in usual))

    command = ["-m", "expkit", "monitor", str(data.run.root), "--web", "--port", str(port)]
    drawn = "[...document.querySelectorAll('.plot')].some((plot) => plot.data?.length)"
    return _Face(command, port, last, curve, panels, drawn, prepare)


def _tensorboard(data: _Data) -> _Face:
    port = _free_port()

    def steps(name: str = "train_loss") -> list[float]:
        return [row[1] for row in _get(port, f"/data/plugin/scalars/scalars?tag={name}&run=.")]

    def panels() -> None:
        for name in _METRICS[:3]:
            steps(name)

    command = ["-m", "tensorboard.main", "--logdir", str(data.events), "--port", str(port), "--reload_interval", "1"]
    return _Face(command, port, lambda: max(steps()), steps, panels, "", lambda: None)


def _measured(face: _Face, data: _Data, cost: _Cost, refreshes: int, browser: Browser | None) -> float:
    """Return the seconds until the last step is served; note the rest in `cost`."""
    if browser is not None and face.drawn:
        face.prepare()
        began = time.perf_counter()
        with _process(face.command):
            _wait(lambda: _listens(face.port))
            browser.open(f"http://127.0.0.1:{face.port}/")
            browser.wait(face.drawn, 120)
            cost.drawn.append(time.perf_counter() - began)
    face.prepare()
    began = time.perf_counter()
    with _process(face.command) as process:
        _wait(lambda: _last(face) >= data.step)
        served = time.perf_counter() - began
        cost.spikes.append(len(set(data.spikes) & set(face.curve())))
        before = _cpu(process)
        for _ in range(refreshes):
            data.grow()
            _wait(lambda: _last(face) >= data.step)
            face.panels()
        cost.refresh_cpu.append(1000 * (_cpu(process) - before) / refreshes)
        cost.resident.append(sum(each.memory_info().rss for each in _family(process)) / 2**20)
    return served


def _last(face: _Face) -> float:
    try:
        return face.last()
    except (OSError, KeyError, TypeError, ValueError, http.client.HTTPException):
        return -math.inf  # not there yet


def _get(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return orjson.loads(connection.getresponse().read())
    finally:
        connection.close()


def _wait(for_what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not for_what():
        if time.monotonic() > deadline:
            raise TimeoutError("a server does not get on")
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def _process(arguments: Sequence[str]) -> Iterator[psutil.Process]:
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as started:
        process = psutil.Process(started.pid)
        try:
            yield process
        finally:
            for each in reversed(_family(process)):
                each.terminate()


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu(process: psutil.Process) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in _family(process))


@contextmanager
def _browser() -> Iterator[Browser | None]:
    if chromium() is None:
        yield None
    else:
        with Browser() as browser:
            yield browser
