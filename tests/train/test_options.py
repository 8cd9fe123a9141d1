"""Every option of every group: it composes, its object keeps the group's protocol, and a run with it ends well."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.journal import read_journal
from tests.components import preset
from tests.conftest import CONF, SMALL, Train, options
from train.config.build import MULTI_SELECT

#: What no short run is made of here: they take long, need a task of their own, or other processes.
NOT_RUN = ("hydra/", "experiment=", "sweep=", "task/")
#: What decides over other groups too.
ALONE = ("task=", "trainer=", "debug=")


def all_options() -> list[str]:
    groups = {str(file.parent.relative_to(CONF)) for file in CONF.rglob("*.yaml")} - {".", "hydra/help"}
    return [f"{group}={option}" for group in sorted(groups) for option in options(group)]


def test_the_promised_groups_are_there() -> None:
    promised = "task optimizer scheduler tracker checkpoint diagnostics detectors plots experiment debug hydra/launcher"
    promised += " cluster sweep"
    for group in promised.split():
        assert (CONF / group).is_dir(), group


@pytest.mark.parametrize("choice", [each for each in all_options() if each.startswith(NOT_RUN)])
def test_every_other_option_composes(compose: Callable[..., Any], choice: str) -> None:
    assert compose(choice) is not None


def together() -> list[tuple[str, ...]]:
    """Choices that a run can have at the same time: the first options of all groups, then the second ones ...

    Of detectors, which are the most, three at a time.
    """
    groups: dict[str, list[str]] = {}
    for group in sorted({choice.partition("=")[0] for choice in all_options()}):
        named = options(group)
        size = 3 if group == "detectors" else 1
        chosen = [f"{group}={','.join(named[at : at + size])}" for at in range(0, len(named), size)]
        groups[group] = [each for each in chosen if not each.startswith((*NOT_RUN, *ALONE))]
    return [tuple(filter(None, row)) for row in itertools.zip_longest(*groups.values())]


def refusal(said: str) -> re.Match[str] | None:
    """Return the line in which a diagnostic refuses a model, its name the first group."""
    return re.search(r"^error: diagnostics\.(\w+): ", said, re.MULTILINE)


def alone() -> list[str]:
    """Each of these choices by itself."""
    return [each for each in all_options() if not each.startswith((*NOT_RUN, *ALONE))]


@pytest.mark.parametrize(
    "choices",
    [
        *(pytest.param((each,), id=each) for each in all_options() if each.startswith(ALONE)),
        *(pytest.param(row, id=" ".join(row)) for row in together()),
        *(pytest.param((each,), id=each, marks=pytest.mark.slow) for each in alone()),
    ],
)
def test_a_short_run_with_every_option_ends_well(train: Train, outputs: Path, choices: tuple[str, ...]) -> None:
    group, _, option = choices[0].partition("=")
    for task in [option] if group in ("task", "trainer") else SMALL:  # the first whose model the diagnostic takes
        typed = ("debug=smoke", "plots=[]", *SMALL[task], *choices, "trainer.max_steps=20", "run.id=run")
        done = train(*typed, check=False)
        if refusal(done.stderr) is None:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((outputs / "run" / "status.json").read_text())["state"] == "finished"
    assert (outputs / "run" / "results.json").exists()
    measured = {name for entry in read_journal(outputs / "run" / "logs" / "metrics.jsonl") for name in entry}
    for choice in choices:
        group, _, option = choice.partition("=")
        assert group != "diagnostics" or any(name.startswith(f"{option}/") for name in measured)


@pytest.mark.parametrize("task", options("task"))
def test_smoke_reaches_every_part_of_every_task(train: Train, outputs: Path, tmp_path: Path, task: str) -> None:
    (tmp_path / "sizes.py").write_text(
        "from expkit.diagnostics import Diagnostic\n\n\n"
        "class Size(Diagnostic):\n"
        "    def measure(self, model):\n"
        "        return {'parameters': sum(p.numel() for p in model.parameters())}\n"
    )
    (tmp_path / "conf" / "diagnostics").mkdir(parents=True)
    node = "# @package diagnostics.size\n_target_: sizes.Size\n"
    (tmp_path / "conf" / "diagnostics" / "size.yaml").write_text(node)
    train("--config-dir", "conf", "debug=smoke", *SMALL[task], "diagnostics=size", "run.id=run")
    run = outputs / "run"
    (last,) = (entry for entry in read_journal(run / "logs" / "metrics.jsonl") if "size/parameters" in entry)
    assert {"train_loss", "val_loss", "final/best_val_loss"} <= last.keys()
    assert list((run / "checkpoints").glob("checkpoint_step_*.pt"))
    assert list((run / "visualizations").glob("*_step_20.png"))


@pytest.mark.parametrize("choice", [each for each in all_options() if each.startswith("task/")])
def test_every_part_of_a_task_fits_one_and_the_others_refuse_it_in_one_line(
    train: Train, outputs: Path, choice: str
) -> None:
    short = ("debug=smoke", "trainer.max_steps=2", "plots=[]", "trainer.batch_size=4")
    fitting = []
    for task in options("task"):
        done = train(*short, f"task={task}", choice, f"run.id={task}", check=False)
        if done.returncode == 0:
            fitting.append(task)
            continue
        assert done.returncode == 1
        assert done.stderr.startswith("error: task") and done.stderr.count("\n") == 1, done.stderr
        assert not (outputs / task).exists()
    assert fitting


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiment_runs_when_made_small(train: Train, outputs: Path, experiment: str) -> None:
    small = ("task.data.n_train=64", "task.data.n_val=16", "trainer.batch_size=32", "trainer.max_epochs=2")
    train(f"experiment={experiment}", *small, "tracker=[]", "plots=[]", "run.id=run")
    assert json.loads((outputs / "run" / "status.json").read_text())["epoch"] == 2


@pytest.mark.parametrize("group", MULTI_SELECT)
def test_a_multi_select_option_holds_flat_arguments_under_its_own_name(group: str) -> None:
    for option in options(group):
        file = CONF / group / f"{option}.yaml"
        text, chosen = file.read_text(), preset(file)
        assert text.startswith(f"# @package {group}\n" if chosen else f"# @package {group}.{option}\n")
        assert set(chosen) <= set(options(group)) if chosen else "\n_target_: " in text


def test_the_page_has_every_option_of_every_group() -> None:
    page = (CONF.parent / "docs" / "training.md").read_text()
    table = page.partition("\n## Groups\n")[2].partition("\n\n## ")[0]
    named = {word for code in re.findall("`([^`]+)`", table) for word in re.findall(r"\w+", code)}
    missing = {choice for choice in all_options() if choice.partition("=")[2] not in named}
    assert not missing, "options without a place in the table of docs/training.md, Groups"


def test_everything_at_once(train: Train, outputs: Path) -> None:
    chosen = {group: options(group) for group in MULTI_SELECT if options(group)}
    while True:
        both = [f"{group}={','.join(names)}" for group, names in chosen.items()]
        typed = ("debug=smoke", *both, "trainer.clip_grad_norm=1.0", "trainer.precision=bf16", "run.id=run")
        done = train(*typed, check=False)
        refused = refusal(done.stderr)
        if refused is None:
            break
        chosen["diagnostics"].remove(refused[1])  # it is for models of other tasks
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads((outputs / "run" / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["metrics"]["gradient_norm"] > 0


def test_none_of_the_multi_select_groups(train: Train, outputs: Path) -> None:
    train("debug=smoke", *(f"{group}=[]" for group in MULTI_SELECT), "checkpoint=none", "run.id=run")
    assert not list((outputs / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_learns_too(train: Train, outputs: Path, precision: str) -> None:
    train(f"trainer.precision={precision}", "trainer.max_epochs=3", "tracker=[]", "plots=[]", "run.id=run")
    history = json.loads((outputs / "run" / "results.json").read_text())["training_history"]
    assert history[-1]["test"]["loss"] < history[0]["test"]["loss"]


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_model_learns_the_same(
    train: Train, outputs: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    for run, compiled in (("compiled", "true"), ("eager", "false")):
        short = ("debug=smoke", "plots=[]", "task.model.hidden=32", "trainer.max_steps=10")
        train(*short, f"trainer.compile={compiled}", f"run.id={run}")
    losses = [
        json.loads((outputs / run / "results.json").read_text())["final_metrics"]["val_loss"]
        for run in ("compiled", "eager")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_threads_are_those_of_the_run_and_afterwards_as_before(train: Train, outputs: Path) -> None:
    train("debug=smoke", "plots=[]", "task.model.hidden=32", "trainer.threads=2", "run.id=run")
    saved = torch.load(outputs / "run" / "checkpoints" / "checkpoint_step_20.pt", weights_only=True)
    assert saved["threads"] == 2
    assert torch.get_num_threads() == 1


def test_the_seed_decides(train: Train, outputs: Path) -> None:
    for number, seed in enumerate((0, 0, 1)):
        train("debug=smoke", "plots=[]", f"trainer.seed={seed}", f"run.id={number}")
    losses = [
        json.loads((outputs / str(n) / "results.json").read_text())["final_metrics"]["val_loss"] for n in range(3)
    ]
    assert losses[0] == losses[1] != losses[2]
