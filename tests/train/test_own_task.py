"""Somebody else's task, from their own folder: exactly what the README shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from expkit.journal import read_journal, stable
from tests.conftest import Train
from tests.train.helpers import same

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


def test_it_trains_and_resumes_from_outside_the_repository(
    train_process: Train, train: Train, project: Path, outputs: Path
) -> None:
    arguments = ("--config-dir", "my_conf", "task=my_task", "run.id=mine", "tracker=[]", "plots=[]")
    train_process(*arguments, "trainer.max_epochs=10", cwd=project)
    results = json.loads((outputs / "mine" / "results.json").read_text())
    losses = [entry["test"]["loss"] for entry in results["training_history"]]
    assert losses[-1] < losses[0] / 2
    assert "absolute_error" in results["training_history"][0]["test"]
    done = train("--config-dir", "my_conf", "resume=mine", "trainer.max_epochs=12", cwd=project)
    assert "resumed at step 80" in done.stderr


def test_it_is_stopped_resumed_and_the_same_as_if_it_had_not_been(train: Train, project: Path, outputs: Path) -> None:
    own = ("--config-dir", "my_conf")
    arguments = (*own, "task=my_task", "tracker=[]", "plots=[]", "trainer.deterministic=true", "trainer.max_epochs=5")
    train(*arguments, "run.id=whole", cwd=project)
    train(*arguments, "run.id=stopped", "trainer.max_steps=21", cwd=project)
    train(*own, "resume=stopped", "trainer.max_steps=null", cwd=project)
    whole, stopped = (
        torch.load(outputs / run / "checkpoints" / "checkpoint_latest.pt", weights_only=True)["model_state_dict"]
        for run in ("whole", "stopped")
    )
    assert same(whole, stopped)
    # The shorter run evaluated at its end, which may have been the best; all else that the whole one says, it says too.
    said = [repr(stable(entry)) for entry in read_journal(outputs / "stopped" / "logs" / "metrics.jsonl")]
    for entry in read_journal(outputs / "whole" / "logs" / "metrics.jsonl"):
        if 24 < entry["step"] < 40:
            assert repr(stable(entry)) in said


def test_its_mistakes_are_one_line_too(train: Train, project: Path) -> None:
    (project / "my_conf" / "task" / "my_task.yaml").write_text("_target_: my_package.my_task.Sine\n")
    done = train("--config-dir", "my_conf", "task=my_task", cwd=project, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "Sine" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("def step", "def stepp", "SineTask has no method step(self, model, batch)"),
        ("def val_data", "def value", "SineTask has no method val_data(self)"),
        ("return StepOutput(", "return (", "SineTask.step returned a tuple, but it must be StepOutput"),
        ("error.square().mean()", "0.5", "whose loss is a float"),
        ("error.square().mean()", "error.square()", "a loss of shape [64, 1], but it must be one number: the mean"),
        ("error.square().mean()", "error.square().mean().detach()", "a loss without a gradient"),
        (".abs().sum()", ".abs().sum().item()", "whose 'absolute_error' is a float"),
        (".abs().sum()", ".abs()", "'absolute_error' of shape [64, 1], but it must be one number: the sum"),
        ('{"absolute_error": error.detach().abs().sum()}', "None", "whose sums are a NoneType"),
        ("len(x))", "x)", "a count of shape [64, 1], but it must be one number"),
        ("len(x))", "str(len(x)))", "whose count is a str, but it must be an int"),
        ('"absolute_error"', '"loss"', "StepOutput.sums holds 'loss'"),
        ("return nn.Sequential(", "return (", "SineTask.build_model returned a tuple, not a model"),
        ("nn.Linear(1, self.hidden)", "nn.Linear(1, -3)", "SineTask.build_model failed"),
    ],
)
def test_a_task_that_breaks_the_contract_is_told_in_one_line(
    train: Train, project: Path, outputs: Path, old: str, new: str, says: str
) -> None:
    file = project / "my_package" / "my_task.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    done = train("--config-dir", "my_conf", "task=my_task", "tracker=[]", "plots=[]", cwd=project, check=False)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert says in lines[0]
    assert "Traceback" not in done.stderr
    assert not list(outputs.glob("*/config.json"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("error.mean()", "SineTask.step returned a Tensor, but it must be StepOutput"),
        ("StepOutput(error.mean(), {}, 0)", "SineTask.step counted no sample in all of the validation data"),
    ],
)
def test_a_step_that_breaks_it_in_validation_only_is_told_too(
    train: Train, project: Path, wrong: str, says: str
) -> None:
    file = project / "my_package" / "my_task.py"
    old = "        return StepOutput("
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, f"        if not model.training:\n            return {wrong}\n{old}"))
    done = train("--config-dir", "my_conf", "task=my_task", "tracker=[]", "plots=[]", cwd=project, check=False)
    assert done.returncode == 1
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_what_to_type_next_names_the_folder_of_ones_own(train: Train, project: Path) -> None:
    done = train(
        "--config-dir", "my_conf", "task=my_task", "tracker=[]", "plots=[]", "trainer.max_epochs=1", cwd=project
    )
    assert f"--config-dir {project / 'my_conf'} resume=" in done.stdout


def test_a_resume_without_the_folder_of_ones_own_says_what_is_missing(
    train: Train, project: Path, outputs: Path
) -> None:
    train("--config-dir", "my_conf", "task=my_task", "tracker=[]", "plots=[]", "trainer.max_epochs=1", cwd=project)
    done = train("resume=latest", cwd=project, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("the run to resume was started with it: give its --config-dir again")


def test_options_of_ones_own_are_among_the_choices(train: Train, project: Path) -> None:
    done = train("--config-dir", "my_conf", "task=my_tsk", cwd=project, check=False)
    assert "did you mean my_task?" in done.stderr
