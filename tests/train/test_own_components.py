"""Somebody else's parts, from their own folder: everything that docs/components.md shows, as it shows it."""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from expkit.journal import read_journal
from tests.components import write_page
from tests.conftest import Train


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with every file that the page shows."""
    return write_page(tmp_path / "project")


def test_everything_on_the_page_works_together(train: Train, project: Path, outputs: Path) -> None:
    (project / "my_conf" / "detectors" / "high.yaml").write_text(
        (project / "my_conf" / "detectors" / "high.yaml").read_text().replace("limit: 10.0", "limit: 3.0")
    )
    parts = ("tracker=csv,trackio", "diagnostics=blob,norms", "detectors=high", "plots=weights")
    chosen = ("optimizer=rmsprop", "scheduler=exponential", "trainer.max_epochs=2", "run.id=run")
    done = train("--config-dir", "my_conf", *parts, *chosen, cwd=project)
    run = outputs / "run"
    entries = list(read_journal(run / "logs" / "metrics.jsonl"))
    assert entries[-1]["norms/encoder.weight"] > 0
    assert entries[-1]["blob/n_clusters_dbscan"] >= 0
    assert entries[0]["learning_rate"] > entries[-1]["learning_rate"]
    rows = list(csv.reader((run / "metrics_run.csv").open()))
    losses = {int(step): float(value) for step, name, value in rows if name == "train_loss"}
    assert losses == {entry["step"]: entry["train_loss"] for entry in entries}
    events = [json.loads(line) for line in (run / "logs" / "events.jsonl").read_text().splitlines()]
    assert {(event["detector"], event["kind"], event["severity"]) for event in events} == {
        ("high", "high_loss", "WARNING"),
        ("high", "response", "INFO"),  # the snapshot
    }
    assert "Warning: step 10: the loss reached" in done.stderr
    assert (run / "visualizations" / "weights_step_46.png").exists()
    history = json.loads((run / "results.json").read_text())["training_history"]
    assert {"weight_correlation", "encoder.weight"} <= history[0]["diagnostics"].keys()


def test_a_course_that_is_left_stays_in_its_own_file(train: Train, project: Path, outputs: Path) -> None:
    first = ("--config-dir", "my_conf", "debug=smoke", "tracker=csv", "plots=[]", "run.id=run")
    train(*first, cwd=project)
    back = f"resume={outputs}/run/checkpoints/checkpoint_step_10.pt"
    train("--config-dir", "my_conf", back, "optimizer.lr=0.002", cwd=project)
    steps = {}
    for name in ("run", "run-r1"):
        rows = csv.reader((outputs / "run" / f"metrics_{name}.csv").open())
        steps[name] = [int(step) for step, metric, _ in rows if metric == "train_loss"]
    assert steps == {"run": [5, 10, 15, 20], "run-r1": [5, 10, 15, 20]}


MYPY = """
[mypy]
strict = true
cache_dir = /dev/null
[mypy-expkit.*]
follow_imports = silent
[mypy-torch.*,numpy.*,matplotlib.*,orjson.*]
follow_imports = skip
follow_imports_for_stubs = true
"""
FIRST_PARTY = "lint.isort.known-first-party = ['expkit', 'my_package']"


def test_the_examples_pass_the_linters_of_this_repository(project: Path) -> None:
    (project / "mypy.ini").write_text(MYPY)  # with the types of torch and matplotlib it would take 20 seconds, not 2
    root = Path(__file__).parents[2]
    ours = ("--no-cache", "--config", str(root / "pyproject.toml"), "--config", FIRST_PARTY, "my_package")
    for command in (
        ("mypy", "--config-file", "mypy.ini", "--explicit-package-bases", "my_package"),
        ("ruff", "check", *ours),
        ("ruff", "format", "--check", *ours),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=project,
            env={**os.environ, "MYPYPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_test_on_the_page_passes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project)
    runpy.run_path(str(project / "my_package" / "test_high.py"))["test_one_high_step_among_low_ones_is_said"]()


@pytest.mark.parametrize(
    ("file", "broken", "says"),
    [
        ("my_package/norms.py", "class WeightNorm:\n    pass\n", ["diagnostics.norms", "WeightNorm", "Diagnostic"]),
        ("my_package/norms.py", "import not_there\n", ["diagnostics.norms", "not_there", "not installed"]),
        ("my_package/norms.py", "def broken(:\n", ["diagnostics.norms", "SyntaxError"]),
        (
            "my_package/norms.py",
            "from expkit.diagnostics import Diagnostic\n\n\n"
            "class WeightNorm(Diagnostic):\n    def check(self, model):\n        raise RuntimeError('no heads')\n\n"
            "    def measure(self, model):\n        return {}\n",
            ["diagnostics.norms: RuntimeError: no heads (my_package/norms.py, line 6)"],
        ),
        ("my_conf/diagnostics/norms.yaml", "# @package diagnostics.norms\nx: 1\n", ["diagnostics.norms", "_target_"]),
        (
            "my_conf/diagnostics/norms.yaml",
            "# @package diagnostic.norms\n_target_: x.y\n",
            ["diagnostic.norms", "first line"],
        ),
        ("my_conf/diagnostics/norms.yaml", "_target_: x.y\n", ["diagnostics", "begin with the line"]),
    ],
)
def test_a_mistake_in_a_part_is_one_line_that_names_it(
    train: Train, project: Path, outputs: Path, file: str, broken: str, says: list[str]
) -> None:
    (project / file).write_text(broken)
    done = train("--config-dir", "my_conf", "diagnostics=norms", "tracker=[]", cwd=project, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0, done.stderr
    for words in says:
        assert words in done.stderr
    assert not list(outputs.glob("*/config.json"))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("return {'window': collections.deque()}", "state_dict().window is collections.deque, which cannot be loaded"),
        ("pass", "state_dict returned None, but it must return a dict"),
        ("return {'last': self.last}", "state_dict failed: AttributeError: 'High' object has no attribute 'last'"),
    ],
)
@pytest.mark.parametrize(("group", "base"), [("detectors", "Detector"), ("diagnostics", "Diagnostic")])
def test_a_state_that_no_checkpoint_could_hold_is_refused_before_training(
    train: Train, tmp_path: Path, outputs: Path, group: str, base: str, state: str, says: str
) -> None:
    (tmp_path / f"own_{group}.py").write_text(
        f"import collections\n\nfrom expkit.{group} import {base}\n\n\n"
        f"class High({base}):\n    def state_dict(self):\n        {state}\n\n"
        "    def observe(self, record):\n        return []\n\n    def measure(self, model):\n        return {}\n"
    )
    (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / group / "high.yaml").write_text(f"# @package {group}.high\n_target_: own_{group}.High\n")
    sys.modules.pop(f"own_{group}", None)
    done = train("--config-dir", "conf", "debug=smoke", f"{group}=high", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {group}.high: High.{says}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("group", "body", "says"),
    [
        (
            "tracker",
            "class X(Tracker):\n    def check(self):\n        raise ValueError('no key')\n\n"
            "    def log(self, record): ...\n",
            "tracker.x: ValueError: no key (own_x.py, line ",
        ),
        (
            "tracker",
            "class X(Tracker):\n    requires = 'not_there'\n\n    def log(self, record): ...\n",
            "tracker.x needs the package not_there, which is not installed: pip install it",
        ),
        (
            "diagnostics",
            "class X(Diagnostic):\n    interval = 'sometimes'\n\n    def measure(self, model): ...\n",
            "diagnostics.x.interval=sometimes: a number of steps, or log, or epoch",
        ),
        (
            "plots",
            "class X(Plot):\n    def __init__(self, most=3):\n        self.most = most\n\n"
            "    def draw(self, context, collected): ...\n",
            "plots.x: X has no viz_interval: its constructor takes viz_interval and theme, and calls super().__init__(",
        ),
    ],
)
def test_a_part_that_cannot_work_is_refused_in_one_line_before_there_is_a_run(
    train: Train, tmp_path: Path, outputs: Path, group: str, body: str, says: str
) -> None:
    bases = (("diagnostics", "Diagnostic"), ("plots", "Plot"), ("trackers", "Tracker"))
    imports = "".join(f"from expkit.{module} import {base}\n" for module, base in bases)
    (tmp_path / "own_x.py").write_text(imports + "\n\n" + body)
    (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / group / "x.yaml").write_text(f"# @package {group}.x\n_target_: own_x.X\n")
    sys.modules.pop("own_x", None)
    done = train("--config-dir", "conf", "debug=smoke", f"{group}=x", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {says}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert not outputs.exists()


def test_a_tracker_that_fails_never_stops_training(train: Train, project: Path, outputs: Path) -> None:
    tracker = project / "my_package" / "csv_tracker.py"
    tracker.write_text(tracker.read_text().replace("self.rows.writerows(", "self.lost.writerows("))
    done = train("--config-dir", "my_conf", "tracker=csv,trackio", "trainer.max_epochs=2", "run.id=run", cwd=project)
    status = json.loads((outputs / "run" / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["trackers"]["csv"]["failures"] > 1
    assert "trackio" not in status["trackers"]
    assert sum("csv" in line and "lost" in line for line in done.stderr.splitlines()) == 1, "said once"
