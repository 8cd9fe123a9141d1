"""docs/mistakes.md: every row of its tables is tried, and the user sees the line that stands there."""

from __future__ import annotations

import functools
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from omegaconf import DictConfig

from expkit.journal import read_journal
from tests.conftest import Train, Trained, ended, train_command, train_environment
from train.config import keys, mistakes

PAGE = (Path(__file__).parents[3] / "docs" / "mistakes.md").read_text()


class Row(NamedTuple):
    """One row of a table: what has to be there first, what is typed, the line that the user sees, the exit code."""

    setting: str
    typed: str
    line: str
    code: int

    def says(self, text: str) -> bool:
        """Whether a line of `text` is this row's, the last one if it is an error."""
        pattern = "".join(
            {"...": ".*", "RUN": r"\S+"}.get(part, re.escape(part)) for part in re.split(r"(\.\.\.|RUN)", self.line)
        )
        lines = text.strip().splitlines()
        return any(re.fullmatch(pattern, line) for line in (lines[-1:] if self.code in (1, 2) else lines))


def rows() -> list[Row]:
    found = re.findall(r"^\| (?:([^`|]+): )?`(.+)` \| (`+)(.+)\3 \| (\d+) \|$", PAGE, re.MULTILINE)
    return [Row(setting, typed, line, int(code)) for setting, typed, _, line, code in found]


ROWS = rows()
SIGNALS = {"Ctrl-C in training": signal.SIGINT, "SIGTERM in training": signal.SIGTERM}
TWICE = "Ctrl-C twice in training"  # tests/train/test_stopping.py tries it, in every place that takes long

#: Of the rows that are a single wrong value every second one always, the others with -m slow.
VALUES = [
    row for row in ROWS if not row.setting and "RUN" not in row.typed and not row.typed.startswith(("python", "H"))
]
TRIED = [
    pytest.param(row, marks=pytest.mark.slow) if row in VALUES[1::2] else row
    for row in ROWS
    if row.setting not in (TWICE, *SIGNALS)
]

TASK = """\
import torch
from torch import nn
from train.tasks import Task


class MyTask(Task):
    def __init__(self, hidden=4):
        self.hidden = hidden

    def build_model(self):
        return nn.Linear(1, 1)
"""


def own_task(code: str = TASK, yaml: str = "") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for file, content in (
            ("my_package/my_task.py", code),
            ("my_conf/task/my_task.yaml", yaml or "_target_: my_package.my_task.MyTask\n"),
        ):
            (folder / file).parent.mkdir(parents=True)
            (folder / file).write_text(content)

    return write


DETECTOR = """\
from expkit.detectors import Detector


class Mine(Detector):
    def __init__(self, *, limit: float = 1.0):
        self.limit = limit

    def observe(self, record):
        return []
"""


def own_part(code: str = DETECTOR, yaml: str = "") -> Callable[[Path], None]:
    """A detector of one's own."""
    package = "# @package detectors.mine\n"

    def write(folder: Path) -> None:
        for file, content in (
            ("my_package/mine.py", code),
            ("my_conf/detectors/mine.yaml", yaml or f"{package}_target_: my_package.mine.Mine\nlimit: 1.0\n"),
        ):
            (folder / file).parent.mkdir(parents=True)
            (folder / file).write_text(content)

    return write


def file(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def in_run(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """A finished run called `mine`, changed."""

    def make(folder: Path) -> None:
        change(folder / "outputs" / "mine")

    return make


def damage(*checkpoints: Path) -> None:
    for checkpoint in checkpoints:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])


def break_line(journal: Path) -> None:
    first, _, *others = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([first, "garbage{\n", *others]))


def stop(run: Path) -> None:
    """Let a run say that it was preempted, and that it was started without an id of its own."""
    config, status = (json.loads((run / name).read_text()) for name in ("config.json", "status.json"))
    config["overrides"].remove("run.id=mine")
    (run / "config.json").write_text(json.dumps(config))
    (run / "status.json").write_text(json.dumps({**status, "state": "preempted"}))


def as_it_is(_: Path) -> None:
    """Change nothing."""


#: A small run of two epochs.
MINE = ("run.id=mine", "task.model.hidden=8", "trainer.max_epochs=2", "tracker=[]", "plots=[]")

#: What the first column says before the command. All of it happens in the folder from which the user starts.
SETTINGS: dict[str, Callable[[Path], None]] = {
    "with the traceback": as_it_is,
    "a file where the folder should be": file("notes.txt", b"x"),
    "an id that is taken": in_run(as_it_is),
    "a package that is not installed": own_task("import not_there\n"),
    "a file that is not Python": own_task("def broken(:\n"),
    "an error as it is imported": own_task("raise RuntimeError('no licence')\n"),
    "a class by another name": own_task(TASK.replace("MyTask", "MyTsk")),
    "a class that is no task": own_task("class MyTask:\n    pass\n"),
    "a constructor that raises": own_task(TASK.replace("self.hidden = hidden", "{}['hidden']")),
    "a build_model that raises": own_task(TASK.replace("return nn", "raise RuntimeError('no weights')  #")),
    "a train_data that raises": own_task(TASK + "\n    def train_data(self):\n        open('nowhere.csv')\n"),
    "a YAML file with a tab": own_task(yaml="_target_: my_package.my_task.MyTask\n\thidden: 3\n"),
    "a YAML file without _target_": own_task(yaml="hidden: 3\n"),
    "an argument that it does not take": own_task(yaml="_target_: my_package.my_task.MyTask\nhiden: 3\n"),
    "a setting that it does not have": own_part(),
    "without its method": own_part(DETECTOR.replace("observe", "observed")),
    "another base class": own_part(DETECTOR.replace("(Detector)", "")),
    "a text where a list belongs": own_part(DETECTOR.replace("def __init__", "respond = 'stop'\n\n    def __init__")),
    "without an argument of that name": own_part(DETECTOR.replace("limit", "bound")),
    "without a constructor": own_part(DETECTOR.replace("__init__", "setup")),
    "without its first line": own_part(yaml="_target_: my_package.mine.Mine\n"),
    "a typing mistake in _target_": own_part(yaml="# @package detectors.mine\n_traget_: my_package.mine.Mine\n"),
    "a train.py of your own": file("train.py", b"raise SystemExit('this is not expkit')\n"),
    "an empty file": file("empty.txt", b""),
    "a picture": file("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(5000)),
    "a text of five letters": file("short.txt", b"hello"),
    "a folder in a run": in_run(as_it_is),
    "a run without config.json": in_run(lambda run: (run / "config.json").unlink()),
    "a damaged config.json": in_run(lambda run: (run / "config.json").write_text("{broken")),
    "a config.json of something else": in_run(lambda run: (run / "config.json").write_text("{}")),
    "a damaged status.json": in_run(lambda run: (run / "status.json").write_text("{broken")),
    "no such checkpoint": in_run(as_it_is),
    "all checkpoints damaged": in_run(lambda run: damage(*run.glob("checkpoints/checkpoint_step_*.pt"))),
    "another model": in_run(as_it_is),
    "another task": in_run(as_it_is),
    "another optimizer": in_run(as_it_is),
    "no checkpoints wanted": in_run(as_it_is),
    "the newest checkpoint damaged": in_run(lambda run: damage(run / "checkpoints" / "checkpoint_step_46.pt")),
    "a broken line in the journal": in_run(lambda run: break_line(run / "logs" / "metrics.jsonl")),
    "a run of the same settings that was stopped": in_run(stop),
    "nothing left to train": in_run(as_it_is),
}


_composed = functools.cache(keys.selected)


def composed_once(arguments: Sequence[str]) -> DictConfig:
    """What `selected` returns, which depends on the options alone."""
    return _composed(tuple(argument for argument in arguments if keys._choice(argument)))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rows with the same options share a composed configuration; packages that a row writes are not another's."""
    monkeypatch.setattr(mistakes, "selected", composed_once)
    monkeypatch.setattr(keys, "selected", composed_once)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_the_page_is_read_whole_and_every_setting_is_used() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| typed")]
    assert len(ROWS) == len(lines)
    assert {row.setting for row in ROWS} == {"", TWICE, *SETTINGS, *SIGNALS}
    assert len(set(ROWS)) == len(ROWS)


@pytest.mark.parametrize("row", TRIED, ids=lambda row: f"{row[0]} {row[1]}")
def test_a_row_is_as_the_page_says(
    train: Train,
    trained: Trained,
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    row: Row,
) -> None:
    if "YAML" in row.line:
        monkeypatch.setattr(yaml, "SafeLoader", yaml.loader.SafeLoader)  # the one that users have: conftest.py
    if "RUN" in row.typed + row.line:
        trained(*MINE)
    SETTINGS.get(row.setting, as_it_is)(tmp_path)
    before = runs(outputs)
    typed = row.typed.replace("id=RUN", "id=mine").replace("RUN", str(outputs / "mine"))
    if typed.startswith("HYDRA_FULL_ERROR=1"):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        typed = typed.removeprefix("HYDRA_FULL_ERROR=1 python -m train")
    if typed.startswith("python"):
        command = [sys.executable, *shlex.split(typed)[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=train_environment(tmp_path), capture_output=True, text=True)
    else:
        done = train(*shlex.split(typed), check=False)
    said = done.stdout + done.stderr
    assert done.returncode == row.code, said
    assert row.says(done.stderr), said
    assert ("Traceback" in said) == (row.setting == "with the traceback"), said
    assert runs(outputs) == before
    if row.code and row.setting != "with the traceback":
        lines = done.stderr.strip().splitlines()
        said_before = ("Warning: ", "Error: ", "error: job ")  # a sweep says at its end once more which jobs failed
        assert all(line.startswith(said_before) for line in lines[:-1]), said


def runs(outputs: Path) -> list[str]:
    """The folders of runs, and what is not there yet."""
    return sorted(path.name for path in outputs.glob("*") if path.name != "multirun")


@pytest.mark.parametrize("row", [row for row in ROWS if row.setting in SIGNALS], ids=lambda row: row.setting)
def test_a_signal_is_as_the_page_says_and_nothing_is_lost(outputs: Path, tmp_path: Path, row: Row) -> None:
    command = train_command(outputs, *shlex.split(row.typed), "run.id=mine", "plots=[]", "task.model.hidden=8")
    environment = train_environment(tmp_path)
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    with ended(process):
        while not list(outputs.glob("mine/checkpoints/checkpoint_step_*.pt")):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(SIGNALS[row.setting])
        said = process.communicate(timeout=60)[1]
    assert process.returncode == row.code, said
    assert row.says(said), said
    step = json.loads((outputs / "mine" / "status.json").read_text())["step"]
    last = [entry["step"] for entry in read_journal(outputs / "mine" / "logs" / "metrics.jsonl")][-1]
    assert (outputs / "mine" / "checkpoints" / f"checkpoint_step_{step}.pt").exists()
    assert json.loads((outputs / "mine" / "logs" / "delivery.json").read_text()) == {
        "mine": {"trackio": {"step": last, "finished": True}}
    }
