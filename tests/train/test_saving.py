"""What a run saves, when, and what of it stays: the keys of the checkpoint section, as they are typed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expkit.checkpoints import CheckpointManager, Saved, read_checkpoint, write_checkpoint
from expkit.journal import read_journal
from tests.conftest import SMALL, Train
from tests.train.helpers import CPU, same
from train.probe import make_probe, probe_loss
from train.tasks.base import StepOutput, Task
from train.update import Update

#: 23 steps an epoch.
QUICK = (
    *SMALL["denoise"],
    "tracker=[]",
    "plots=[]",
    "trainer.max_epochs=4",
    "run.id=run",
    "checkpoint.save_interval=null",
)


def saved(run: Path) -> dict[int, str]:
    """step -> why it was saved, of the checkpoints that are still there."""
    listed = CheckpointManager(run).list_checkpoints()
    assert all(each["valid"] for each in listed)
    return {each["step"]: each["reason"] for each in listed}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["save.on_best=false"], {92: "end"}),
        (["save.on_best=false", "save_interval=40"], {40: "every 40 steps", 80: "every 40 steps", 92: "end"}),
        (["save.on_best=false", "save.every_epochs=2"], {46: "epoch 2", 92: "epoch 4, end"}),
        (["save.on_best=false", "save.at_steps=[5,92]"], {5: "step 5", 92: "step 92, end"}),
        (["save.on_best=false", "save.at_end=false", "save_interval=80"], {80: "every 80 steps"}),
        (["keep_last_n=1"], {92: "best, end"}),
        (["keep_last_n=1", "keep.best=2"], {69: "best", 92: "best, end"}),
        (["keep_last_n=1", "keep.every_steps=23", "keep.every_steps_n=3"], {46: "best", 69: "best", 92: "best, end"}),
        (["keep_last_n=1", "monitor=train_loss", "mode=max", "verify_every=1"], {10: "best", 92: "end"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_when_to_save_and_what_to_keep(train: Train, outputs: Path, keys: list[str], expected: dict[int, str]) -> None:
    train(*QUICK, *(f"checkpoint.{key}" for key in keys))
    assert saved(outputs / "run") == expected


def test_the_best_of_a_metric_of_which_a_high_value_is_good(train: Train, outputs: Path) -> None:
    arguments = (*SMALL["classify"], *QUICK[2:], "checkpoint.monitor=val_accuracy", "trainer.max_epochs=6")
    done = train(*arguments)
    accuracies = {
        entry["step"]: entry["val_accuracy"]
        for entry in read_journal(outputs / "run" / "logs" / "metrics.jsonl")
        if "val_accuracy" in entry
    }
    best = max(accuracies, key=lambda step: accuracies[step])
    assert f"best val_accuracy {accuracies[best]:.5g} at step {best}" in done.stderr
    results = json.loads((outputs / "run" / "results.json").read_text())
    assert results["best_checkpoint"] == f"checkpoints/checkpoint_step_{best}.pt"
    assert results["final_metrics"]["best_step"] == best
    assert (outputs / "run" / "checkpoints" / "checkpoint_best.pt").readlink() == Path(f"checkpoint_step_{best}.pt")


def test_policies_of_ones_own_are_as_the_page_says(train: Train, outputs: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    block = re.search(r"<!-- own policy: python -->\n```python\n# (\S+)\n(.*?)```", page, flags=re.DOTALL)
    command = re.search(r"python -m train '(checkpoint\.save\.also=.*)'", page)
    assert block is not None
    assert command is not None
    file = tmp_path / block[1]
    file.parent.mkdir()
    file.write_text(block[2])
    keep = "checkpoint.keep.also=[{_target_: my_package.policies.Every1000th}]"
    only = ("checkpoint.save.on_best=false", "checkpoint.keep_last_n=99")
    train(*QUICK, *only, command[1].replace("below: 2.5", "below: 5"), keep, cwd=tmp_path)
    losses = {
        entry["step"]: entry["train_loss"]
        for entry in read_journal(outputs / "run" / "logs" / "metrics.jsonl")
        if "train_loss" in entry
    }
    low = {step: "low loss" for step, loss in losses.items() if loss < 5}
    assert 1 < len(low) < len(losses)
    assert saved(outputs / "run") == low | {92: "end, low loss"}
    namespace: dict[str, Any] = {}
    exec(block[2], namespace)
    assert namespace["Every1000th"]().keep([Saved(2000), Saved(1500), Saved(1000)]) == {2000, 1000}


def test_a_metric_that_does_not_exist_is_said_once(train: Train, outputs: Path) -> None:
    done = train(*QUICK, "checkpoint.monitor=val_los")
    said = [line for line in done.stderr.splitlines() if "checkpoint.monitor" in line]
    assert said == [
        "Warning: checkpoint.monitor=val_los: there is no such metric, so no checkpoint is the best; "
        "did you mean val_loss?"
    ]


def test_saving_changes_nothing(train: Train, outputs: Path) -> None:
    weights = []
    for often in ("null", 1):
        train(
            *SMALL["gpt"],
            *QUICK[2:-1],
            "trainer.max_steps=12",
            f"run.id=run{often}",
            f"checkpoint.save_interval={often}",
        )
        path = outputs / f"run{often}" / "checkpoints" / "checkpoint_step_12.pt"
        weights.append(read_checkpoint(path)["model_state_dict"])
    assert same(dict(weights[0]), dict(weights[1]))


def test_a_resume_says_that_the_loss_goes_on_where_it_was(train: Train, outputs: Path) -> None:
    train(*QUICK)
    path = outputs / "run" / "checkpoints" / "checkpoint_step_92.pt"
    loss = float(read_checkpoint(path)["probe"]["loss"])
    done = train("resume=run", "trainer.max_epochs=5")
    assert f"the loss goes on where it was: {loss:.5g} on the checkpoint's own batch" in done.stderr


def test_a_resume_says_that_the_loss_does_not_go_on(train: Train, outputs: Path) -> None:
    train(*QUICK)
    path = outputs / "run" / "checkpoints" / "checkpoint_step_92.pt"
    state = read_checkpoint(path)
    state["probe"]["loss"] += 0.2
    write_checkpoint(path, state)
    assert "Warning: the loss does not go on where it was" in train("resume=run", "trainer.max_epochs=5").stderr
    write_checkpoint(path, state)
    tolerant = train(f"resume={path}", "trainer.max_epochs=5", "checkpoint.loss_tolerance=0.3")
    assert "the loss goes on where it was" in tolerant.stderr


class _Sum(Task):
    """The loss is the sum of what the batch holds, times the weight; it draws random numbers."""

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        inputs = batch["x"] if isinstance(batch, dict) else batch[0]
        noise = torch.rand(())
        return StepOutput(model(inputs).sum() + noise, {}, len(inputs))


@pytest.fixture
def update() -> tuple[nn.Module, Update]:
    model = nn.Linear(4, 1)
    return model, Update(torch.optim.SGD(model.parameters(), lr=0.1), None, CPU)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        ((torch.ones(8, 4), torch.ones(8)), 8),
        ({"x": torch.ones(8, 4), "y": [torch.ones(8)]}, 8),
        ((torch.ones(2_000_000, 4),), 32),  # of a large batch the first samples
        ((torch.ones(2_000_000, 4), torch.ones(3)), None),  # not clear what its samples are
        ((torch.ones(8, 4), object()), None),  # no checkpoint can hold it
        ("text", None),  # the task fails on it
    ],
)
def test_which_batches_become_a_probe(update: tuple[nn.Module, Update], batch: Any, samples: int | None) -> None:
    model, step = update
    before = torch.get_rng_state()
    probe = make_probe(_Sum(), model, step, batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    if samples is None:
        assert probe is None
        return
    assert probe is not None
    inputs = probe["batch"]["x"] if isinstance(batch, dict) else probe["batch"][0]
    assert len(inputs) == samples
    assert torch.equal(probe_loss(_Sum(), model, step, probe["batch"]), probe["loss"])


def test_a_probe_leaves_buffers_as_they_are(update: tuple[nn.Module, Update]) -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 1)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.calls = self.calls + 1
            return super().forward(inputs)

    model = Counting()
    assert make_probe(_Sum(), model, update[1], (torch.ones(8, 4),)) is not None
    assert model.calls == 0
