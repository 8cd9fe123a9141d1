"""`expkit bisect-nan`: planted causes, each found with its module, its step and its cause."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expkit.errors import UserError
from expkit.journal import read_journal
from tests.conftest import SMALL, Train
from tests.train.cause.test_batch import REWOUND, state_of
from tests.train.helpers import Regression
from train.cause import bisect_command, scratch
from train.cause.bisect_command import BisectNanCommand
from train.cause.causes import likely_cause
from train.cause.journalled import first_nonfinite, skipped_steps
from train.cause.replay import Accident, _SkipsAgain
from train.cause.watch import Range, Sight, Watch
from train.models.mlp import MLP

SHORT = ("plots=[]", "trainer.max_epochs=null", "trainer.log_interval=5", "checkpoint.save_interval=5")


@pytest.fixture
def bisect(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Call as `bisect(run, ...)`: what `expkit bisect-nan RUN --json` gives, without the cost of another process."""

    def here(orders: dict[str, Any]) -> dict[str, Any]:
        return scratch.bisect(**orders)

    monkeypatch.setattr(bisect_command, "launch", here)

    def run(run: Path, *arguments: str) -> dict[str, Any]:
        before = state_of(run)
        capfd.readouterr()
        code = BisectNanCommand().run([str(run), "--json", *arguments])
        assert state_of(run) == before
        found: dict[str, Any] = json.loads(capfd.readouterr().out)
        assert code == (0 if found["found"] else 1)
        return found

    return run


def losses(run: Path) -> list[float]:
    return [loss for entry in read_journal(run / "logs" / "metrics.jsonl") for loss in entry["series"]["train_loss"]]


def first_nan(run: Path) -> int:
    """Return the step of the first loss that is not finite."""
    return [math.isfinite(loss) for loss in losses(run)].index(False) + 1


def test_a_bad_batch(train: Train, outputs: Path, bisect: Callable[..., dict[str, Any]]) -> None:
    run = outputs / "run"
    nan = ("debug=nan", "task.fault.step=26", "trainer.max_steps=28", "trainer.grad_accumulation=2")
    train(*SMALL["classify"], *nan, *SHORT, "run.id=run")
    found = bisect(run)
    assert (found["step"], found["epoch"], found["batch"]) == (26, 2, 3) == (first_nan(run), 2, 3)
    assert (found["module"], found["kind"], found["cause"]) == ("layers.0", "input", "bad_batch")
    assert found["replayed"] == 25
    assert len(found["bad_samples"]) == 1
    assert found["bad_samples"][0] in found["indices"][0]
    assert len(found["indices"]) == 2
    assert (found["seen"], found["seen_at"]) == ("train_loss", 26)


def test_a_bad_batch_of_text(train: Train, outputs: Path, bisect: Callable[..., dict[str, Any]]) -> None:
    text = outputs.parent / "text.txt"
    text.write_text("".join(chr(97 + number * number % 26) for number in range(5000)))
    nan = (*SMALL["gpt"], f"task.data.path={text}", "debug=nan", "task.fault.step=3", "trainer.max_steps=5")
    train(*nan, *SHORT, "run.id=run")
    found = bisect(outputs / "run")
    assert (found["step"], found["kind"], found["cause"]) == (3, "loss", "bad_batch")
    assert "every target is -100" in found["likely_cause"]


EXPLODING = '''
import torch
from torch import nn


class Level(nn.Module):
    """Passes its input on, until exp(level) is too large for a float32: 20 more with each batch in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.level += 20
        return x + 0 * self.level.exp()


class Exploding(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(inplace=True))
        self.middle = nn.Sequential(nn.Linear(8, 8), Level())
        self.last = nn.Linear(8, classes)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))
'''


@pytest.fixture
def exploding(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """What to type for a model with a layer that overflows in its fifth batch."""
    (tmp_path / "exploding.py").write_text(EXPLODING)
    (tmp_path / "conf" / "task" / "model").mkdir(parents=True)
    yaml = "_target_: exploding.Exploding\n_partial_: true\n"
    (tmp_path / "conf" / "task" / "model" / "exploding.yaml").write_text(yaml)
    yield "task=classify", "task/model=exploding"
    sys.modules.pop("exploding", None)


def test_an_overflow_in_a_layer(
    train: Train, outputs: Path, tmp_path: Path, exploding: tuple[str, ...], bisect: Callable[..., dict[str, Any]]
) -> None:
    run, conf = outputs / "run", ("--config-dir", "conf")
    short = (*SHORT, "checkpoint.save_interval=2", "checkpoint.keep_last_n=9", "checkpoint.save.on_best=false")
    train(*conf, *exploding, *short, "trainer.max_steps=8", "run.id=run")
    found = bisect(run, *conf)
    assert first_nan(run) == found["step"] == 5
    assert (found["module"], found["kind"], found["cause"]) == ("middle.1", "output", "overflow")
    assert found["replayed"] == 4
    assert found["input_range"] is not None
    assert "not finite" not in found["input_range"]
    (run / "checkpoints" / "checkpoint_step_4.pt").write_bytes(b"damaged")  # is passed over, and stays as it is
    assert bisect(run, *conf)["replayed"] == 2
    with pytest.raises(UserError, match="--config-dir again"):
        bisect(run)


def test_a_learning_rate(train: Train, outputs: Path, bisect: Callable[..., dict[str, Any]]) -> None:
    run = outputs / "run"
    rate = ("optimizer=sgd", "optimizer.lr=3", "optimizer.weight_decay=1", "trainer.max_steps=40")
    with first_bad_output() as bad:
        train("task=classify", "task/model=mlp", "task.model.hidden=[16,16]", *rate, *SHORT, "run.id=run")
    found = bisect(run)
    assert found["cause"] == "learning_rate"
    assert found["learning_rate"] == 3
    assert found["step"] == first_nan(run)
    assert found["module"] == bad[0]
    assert min(found["update_ratios"]) > 0.5


@contextlib.contextmanager
def first_bad_output() -> Iterator[list[str]]:
    """Yield a list of the modules whose output was not finite, in the order in which that happened in a run."""
    found: list[str] = []
    models: list[nn.Module] = []

    def look(module: nn.Module, _: object, output: torch.Tensor) -> None:
        if isinstance(module, MLP):
            models.append(module)
        elif not bool(torch.isfinite(output).all()):
            found.extend(name for name, each in models[-1].named_modules() if each is module)

    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        yield found
    finally:
        handle.remove()


def test_a_run_without_anything_to_find(
    train: Train, outputs: Path, bisect: Callable[..., dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    train(*SMALL["classify"], *SHORT, "trainer.max_steps=5", "run.id=run")
    assert bisect(outputs / "run")["found"] is False
    assert BisectNanCommand().run([str(outputs / "run")]) == 1
    said = capfd.readouterr().out
    assert said == f"nothing to look for: loss and gradient norm are finite in all 5 steps of {outputs / 'run'}\n"
    assert BisectNanCommand().run([str(outputs / "run"), "--step", "3"]) == 1
    assert capfd.readouterr().out.startswith("NOT FOUND: replayed from the beginning, and all is finite, past step 3")
    (outputs / "run" / "logs" / "events.jsonl").write_text('{"step": 4, "kind": "nonfinite"}\n')
    assert BisectNanCommand().run([str(outputs / "run"), "--json"]) == 1
    assert json.loads(capfd.readouterr().out)["seen_at"] == 4


def test_what_a_rewind_has_undone(train: Train, outputs: Path, bisect: Callable[..., dict[str, Any]]) -> None:
    train(*REWOUND, "run.id=run")
    found = bisect(outputs / "run")
    assert found == bisect(outputs / "run", "--before-rewind", "1")
    assert (found["step"], found["module"], found["cause"], found["replayed"]) == (8, "layers.0", "bad_batch", 4)
    assert (found["seen"], found["seen_at"]) == ("train_loss is nan, before rewind 1", 8)
    assert not bisect(outputs / "run", "--step", "8")["found"], "the run as it is has passed that batch over"


@pytest.mark.slow
def test_in_a_process_of_its_own(train: Train, outputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(*SMALL["classify"], "debug=nan", "task.fault.step=7", "trainer.max_steps=9", *SHORT, "run.id=run")
    capfd.readouterr()
    assert BisectNanCommand().run([str(outputs / "run")]) == 0
    said = capfd.readouterr().out
    assert said.startswith("NOT FINITE: step 7, layers.0: the output of layers.0, whose input is not finite already\n")
    with pytest.raises(UserError, match="takes no nothing"):
        BisectNanCommand().run([str(outputs / "run"), "+task.nothing=1"])


class Root(nn.Module):
    """Whose derivative at zero is infinite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sqrt()


class Own(nn.Module):
    """Divides before it calls a module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x / 0)


def sights(model: nn.Module, x: torch.Tensor) -> list[Sight]:
    with Watch(model) as watch:
        watch.begin()
        model(x).sum().backward()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return watch.sights


def test_what_a_watch_sees_first() -> None:
    ones = torch.ones(3, 2)
    linear = nn.Linear(2, 2)
    assert sights(nn.Sequential(linear, nn.ReLU(inplace=True)), ones) == []
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    found = sights(nn.Sequential(linear, nn.ReLU(inplace=True), Root(), nn.Identity()), ones)
    assert found[0] == Sight("gradient", "2", "its input")
    found = sights(nn.Sequential(nn.Linear(2, 2), Own()), ones)
    assert found[0] == Sight("input", "1.inner", inside="1")
    found = sights(nn.Sequential(nn.Identity(), linear), ones / 0)
    assert found[:3] == [Sight("input", ""), Sight("input", "0", inside=""), Sight("output", "0")]


def test_ranges() -> None:
    seen = Range()
    assert seen.add(torch.tensor([1.0, -2.0]))
    assert not seen.add(torch.tensor([5.0, math.nan, -math.inf]))
    assert seen.add(torch.empty(0))
    assert str(seen) == "-2 to 5, and 2 not finite"
    assert seen.largest == 5


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ({"batch": {"[0]": Range(-1, 5e4)}, "usual": {"[0]": 3.0}}, "bad_batch"),
        ({"batch": {"[0]": Range(-1, 5.0)}, "usual": {"[0]": 3.0}}, "overflow"),
        ({"ratios": [0.2, 0.6, 0.7]}, "learning_rate"),
        ({"ratios": [0.2, 0.1, 0.7]}, "overflow"),
        ({"weights": (1.0, 2.0, 21.0)}, "learning_rate"),
        ({"weights": (1.0, 90.0, 101.0)}, "learning_rate"),
        ({"weights": (1.0, 90.0, 99.0)}, "overflow"),
        ({"ratios": [6.0]}, "learning_rate"),
        ({"kind": "loss"}, "loss"),
        ({"kind": "loss", "targets_ignored": True}, "bad_batch"),
        ({"targets_ignored": True}, "overflow"),
    ],
)
def test_likely_causes(what: dict[str, Any], cause: str) -> None:
    accident = Accident(**{"step": 3, "epoch": 1, "number": 3, "kind": "output", "module": "a", "where": "", **what})
    assert likely_cause(accident)[0] == cause


def test_updates_that_were_skipped_are_skipped_again(tmp_path: Path) -> None:
    from expkit.experiment import RunDir
    from tests.train.helpers import Run

    files = RunDir(tmp_path)
    files.logs.mkdir()
    files.metrics.write_text(
        '{"step": 2, "series": {"train_loss": [1.0, 2.0], "skipped": [0.0, 1.0]}}\n'
        '{"step": 3, "train_loss": 1.0, "series": {"gradient_norm": [null]}, '
        '"nonfinite": {"/series/gradient_norm/0": "NaN"}}\n'
    )
    assert skipped_steps(files) == {2}
    assert first_nonfinite(files) == (3, "gradient_norm")
    assert first_nonfinite(files, ("train_loss",)) is None
    run = Run(Regression(), max_steps=3)
    weights = []
    run.runner.update.guards = (_SkipsAgain(frozenset({2}), run.runner),)
    run.runner._on_record = [lambda _: weights.append(run.weights()["0.weight"])]
    run.fit()
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
