"""Somebody else's task, from their own folder: exactly what the README shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import Train

README = (Path(__file__).parents[2] / "README.md").read_text()


def readme_block(kind: str) -> tuple[Path, str]:
    """The file that the README shows: its path (first line) and content."""
    block = re.search(rf"<!-- own task: {kind} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert block
    first = block[1].splitlines()[0]
    return Path(first.removeprefix("# ")), block[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the package and configuration of the README."""
    folder = tmp_path / "project"
    for kind in ("python", "yaml"):
        path, content = readme_block(kind)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return folder


def test_the_example_is_as_short_as_it_says() -> None:
    assert len([line for line in readme_block("python")[1].splitlines() if line.strip()]) <= 30


def test_it_trains_and_resumes_from_outside_the_repository(train_process: Train, project: Path, outputs: Path) -> None:
    arguments = ("--config-dir", "my_conf", "task=my_task", "run.id=mine", "tracker=[]")
    train_process(*arguments, "trainer.max_epochs=10", cwd=project)
    results = json.loads((outputs / "mine" / "results.json").read_text())
    losses = [entry["test"]["loss"] for entry in results["training_history"]]
    assert losses[-1] < losses[0] / 2
    assert "absolute_error" in results["training_history"][0]["test"]
    done = train_process("--config-dir", "my_conf", "resume=mine", "trainer.max_epochs=12", cwd=project)
    assert "resumed at step 80" in done.stderr


def test_its_mistakes_are_one_line_too(train_process: Train, project: Path) -> None:
    (project / "my_conf" / "task" / "my_task.yaml").write_text("_target_: my_package.my_task.Sine\n")
    done = train_process("--config-dir", "my_conf", "task=my_task", cwd=project, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "Sine" in done.stderr
