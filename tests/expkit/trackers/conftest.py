"""What the tests of the trackers share: records, a clean Python beside this one, and readers of what was stored."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from expkit.record import Record
from expkit.trackers import RunInfo

REPOSITORY = Path(__file__).resolve().parents[3]
OUTSIDE = ("WANDB_", "TRACKIO_", "HF_", "HUGGING_FACE_")


def make_records(steps: Sequence[int]) -> list[Record]:
    """One record per step, with every kind of number that a metric can be."""
    special = {0: math.nan, 1: math.inf, 2: -math.inf, 3: 1e-300, 4: 2**53}
    return [
        Record(
            step=step,
            epoch=1 + step // 100,
            time=1_700_000_000.25 + step,
            metrics={"train_loss": 1 / step, "blob/a.b": step * 3, "special": special[step % 5]},
        )
        for step in steps
    ]


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without what steers the tools, and with expkit in reach."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OUTSIDE)}
    return kept | {"PYTHONPATH": str(REPOSITORY)} | extra


def takes_ctrl_c() -> None:
    """Let a process that is about to begin take Ctrl-C, which one in a shell's background ignores."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def records() -> Callable[[Sequence[int]], list[Record]]:
    return make_records


@pytest.fixture
def run(tmp_path: Path) -> RunInfo:
    return RunInfo(
        id="toy_20251112_143022_ab12",
        dir=tmp_path / "run",
        project="expkit-test",
        name="toy run",
        group="sweep 1",
        tags=("one", "two"),
        notes="a note",
        config={"optimizer": {"lr": 0.001, "betas": [0.9, 0.99]}, "_private": 1, "none": None},
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "picture.png"
    Image.new("RGB", (4, 4), "red").save(path)
    return path


@pytest.fixture
def start_python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a script in a new interpreter: `start_python(script, *arguments, **environment)`."""
    started = []

    def start(script: str, *arguments: Any, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        env = clean_environment(HOME=str(tmp_path), **environment)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, env=env, cwd=tmp_path, text=True, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def python(start_python: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[str, str]]:
    """Run a script to its end, like `start_python`. Return what it printed to stdout and stderr."""

    def call(script: str, *arguments: Any, **environment: str) -> tuple[str, str]:
        process = start_python(script, *arguments, **environment)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, f"exit code {process.returncode}\n{stdout}\n{stderr}"
        return stdout, stderr

    return call


class WandbFile:
    """What W&B's own reader finds in the offline runs of a run directory.

    It is asked as `wandb leet inspect` asks it, without the second that this takes to be imported.
    """

    def __init__(self, path: Path) -> None:
        package = importlib.util.find_spec("wandb")
        assert package is not None and package.origin is not None
        reader = Path(package.origin).parent / "bin" / "wandb-core"
        command = [str(reader), "leet", "inspect", "--no-observability", "--json", "--run-file", str(path)]
        done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        self.path = path
        self.content = [json.loads(line) for line in done.stdout.splitlines()]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [entry[kind] for entry in self.content if entry["type"] == kind]

    @property
    def rows(self) -> dict[int, dict[str, Any]]:
        """Step -> row, as stored."""
        return {entry["step"]["num"]: entry["item"] for entry in self.of_type("history")}


@pytest.fixture
def wandb_files() -> Callable[[Path], list[WandbFile]]:
    """Read all runs in a run directory, the oldest first."""

    def read(run_dir: Path) -> list[WandbFile]:
        paths = [*(run_dir / "wandb").glob("run-*/*.wandb"), *(run_dir / "wandb").glob("offline-run-*/*.wandb")]
        return [WandbFile(path) for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]

    return read


@pytest.fixture
def trackio_query() -> Callable[[Path, str], list[tuple[Any, ...]]]:
    """Ask the only database in a folder."""

    def query(folder: Path, sql: str) -> list[tuple[Any, ...]]:
        (database,) = folder.glob("*.db")
        with sqlite3.connect(database) as connection:
            return connection.execute(sql).fetchall()

    return query


@pytest.fixture
def tensorboard_events() -> Callable[[Path], Any]:
    """What TensorBoard's own reader finds in a folder: an EventAccumulator that leaves nothing out."""

    def read(folder: Path) -> Any:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        everything = dict.fromkeys(("scalars", "images", "tensors"), 0)
        return EventAccumulator(str(folder), size_guidance=everything).Reload()

    return read


def as_number(value: Any) -> float:
    """Undo the spelling of NaN and infinities that both tools use."""
    words = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    return words[value] if isinstance(value, str) else value


@pytest.fixture
def same_numbers() -> Callable[[dict[str, Any], Record], bool]:
    """Whether a stored row has exactly the metrics of a record."""

    def same(row: dict[str, Any], record: Record) -> bool:
        return all(
            as_number(row[name]) == value or (math.isnan(value) and math.isnan(as_number(row[name])))
            for name, value in record.metrics.items()
        )

    return same
