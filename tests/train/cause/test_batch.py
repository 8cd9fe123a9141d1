"""`expkit batch`: the batch that the run really had, bit for bit, wherever the step is."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import itertools
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from expkit.errors import UserError
from expkit.sampler import ResumableSampler
from tests.conftest import SMALL, Train
from tests.train.helpers import Regression, Run, same
from train.cause.batch_command import BatchCommand, statistics
from train.cause.batches import Place, batch_of
from train.data import Batches
from train.runner import Runner

Had = dict[int, tuple[int, int, list[Any]]]


@pytest.fixture
def had(monkeypatch: pytest.MonkeyPatch) -> Had:
    """Step -> epoch, batch (both from 1) and pieces that a runner in this process was trained on."""
    found: Had = {}
    really = Runner._train_step

    def record(self: Runner, batches: Any) -> None:
        now = self.progress
        found[now.step + 1] = now.epoch + 1, now.batch + 1, [batch for batch, _ in batches.pieces]
        really(self, batches)

    monkeypatch.setattr(Runner, "_train_step", record)
    return found


@pytest.fixture
def rebuilt(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Call as `rebuilt(run, step)`: what `expkit batch --json --save` gives."""

    def run(run: Path, step: int | None, *more: str) -> dict[str, Any]:
        file = tmp_path / f"batch{len(list(tmp_path.glob('batch*')))}.pt"
        capfd.readouterr()
        steps = ("--step", str(step)) if step is not None else ()
        assert BatchCommand().run([str(run), *steps, "--json", "--save", str(file), *more]) == 0
        saved = torch.load(file, weights_only=True)
        return {**json.loads(capfd.readouterr().out), "saved": saved}

    return run


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Return what is in a folder, and when it was changed."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files}


def test_every_batch_of_a_run_also_after_a_resume_that_changed_the_batch_size(
    train: Train, outputs: Path, had: Had, rebuilt: Callable[..., dict[str, Any]]
) -> None:
    run = outputs / "run"
    common = ("plots=[]", "trainer.max_epochs=null", "trainer.grad_accumulation=3", "task.data.max_shift=2")
    train(*SMALL["classify"], *common, "trainer.batch_size=600", "trainer.max_steps=4", "run.id=run")
    train(f"resume={run}", "trainer.batch_size=300", "trainer.max_steps=8")
    assert [had[step][:2] for step in range(1, 9)] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 3), (2, 4), (2, 5), (3, 1)]
    before = state_of(run)
    for step in (1, 4, 5, 8):
        found = rebuilt(run, step)
        assert (found["epoch"], found["batch"]) == had[step][:2], step
        assert same(found["saved"]["pieces"], had[step][2]), step
        assert [piece["indices"] for piece in found["pieces"]] == found["saved"]["indices"]
        assert found["notes"] == []
    assert found["pieces"][0]["tensors"][0] == statistics("[0]", had[8][2][0][0])
    assert state_of(run) == before


def test_a_step_before_a_resume_without_a_checkpoint_before_it(
    train: Train, outputs: Path, had: Had, rebuilt: Callable[..., dict[str, Any]]
) -> None:
    run = outputs / "run"
    text = outputs.parent / "text.txt"
    text.write_text("".join(chr(97 + number * number % 26) for number in range(5000)))
    train(*SMALL["gpt"], f"task.data.path={text}", "plots=[]", "trainer.max_steps=3", "run.id=run")
    train(f"resume={run}", "trainer.max_steps=5", "trainer.batch_size=4")
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    found = rebuilt(run, 2)
    assert same(found["saved"]["pieces"], had[2][2])
    assert len(found["pieces"][0]["samples"]) == 8
    sample = found["pieces"][0]["samples"][0].strip("'")
    assert sample in text.read_text()
    assert len(sample) == 17  # a window, and the character after it
    with pytest.raises(UserError, match=r"step 5 cannot be placed .* a resume has changed trainer\.batch_size"):
        rebuilt(run, 5)


REWOUND = (
    *(
        *SMALL["classify"],
        "debug=nan",
        "plots=[]",
        "trainer.batch_size=300",
        "task.fault.step=8",
        "trainer.max_steps=12",
    ),
    *("trainer.log_interval=5", "trainer.eval_interval=12", "checkpoint.save_interval=2"),
    *("detectors.nonfinite.respond=[rewind]", "responses.rewind_back=3", "responses.rewind_clean=3"),
    "responses.rewind_skip=4",
)


def test_the_batches_of_a_run_that_was_rewound(
    train: Train, outputs: Path, had: Had, rebuilt: Callable[..., dict[str, Any]]
) -> None:
    run = outputs / "run"
    train(*REWOUND, "run.id=run")
    (rewind,) = (each["rewind"] for each in json.loads((run / "config.json").read_text())["resumes"])
    assert (rewind["step"], rewind["at"], rewind["batches"]) == (4, 6, 4)
    assert [had[step][:2] for step in (6, 7, 12)] == [(2, 1), (3, 1), (4, 1)]
    for checkpoints in ((4, 6, 8, 10, 12), (4,), ()):  # retention may have left fewer
        for file in (run / "checkpoints").glob("checkpoint_step_*.pt"):
            if int(file.stem.rpartition("_")[2]) not in checkpoints:
                file.unlink()
        for step in (6, 7, 12) if checkpoints else (5, 7, 9):
            found = rebuilt(run, step)
            assert (found["epoch"], found["batch"]) == had[step][:2], step
            assert same(found["saved"]["pieces"], had[step][2]), step
            assert found["notes"] == []
    bad = rebuilt(run, None, "--before-rewind", "1")
    assert (bad["step"], bad["epoch"], bad["batch"]) == (8, 2, 3)
    assert bad["pieces"][0]["tensors"][0]["nonfinite"] == 64
    assert bad["journal"] == {}, "that has what came instead"
    with pytest.raises(UserError, match=r"--before-rewind 2: .* was once rewound"):
        rebuilt(run, 8, "--before-rewind", "2")
    with pytest.raises(UserError, match="which step"):
        BatchCommand().run([str(run)])


@pytest.mark.parametrize("passes", [{2: 1}, {1: 2, 4: 1}, {5: 3}])
@pytest.mark.parametrize("loader", ["loader", "sampler", "stream"])
def test_batches_of_a_loader_of_ones_own_are_passed_over(had: Had, loader: str, passes: dict[int, int]) -> None:
    task = Regression()
    data = task.train_data()

    def make() -> Any:
        if loader == "stream":
            return Pairs(data)
        sampler = ResumableSampler(data, seed=5) if loader == "sampler" else None
        return DataLoader(data, batch_size=4, sampler=sampler, shuffle=None if sampler else True)

    run = Run(task, data=make(), max_steps=9, max_epochs=None)
    run.runner.passes = passes
    saved: dict[int, Any] = {}
    run.runner.save = lambda runner, moment: saved.setdefault(moment.progress.step, copy.deepcopy(runner.state_dict()))
    run.fit()
    really = dict(had)
    assert run.runner.progress.skipped == sum(passes.values())
    for step in really:
        found = batch_of(Batches(make(), 4), Place(0, 0, 0, passes=passes), step)
        assert same(found.pieces, really[step][2])
    for step in range(1, 9):  # and a resume goes the same way
        again = Run(task, data=make(), max_steps=9, max_epochs=None)
        again.runner.passes = passes
        again.runner.load_state_dict(saved[step])
        had.clear()
        again.fit()
        assert same([had[later][2] for later in had], [really[later][2] for later in range(step + 1, 10)])


class Pairs:
    """Batches without a length."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return zip(*(tensor.split(4) for tensor in self.data.tensors), strict=True)


def test_what_is_said(train: Train, outputs: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    short = ("plots=[]", "trainer.max_steps=3", "trainer.max_epochs=1", "trainer.log_interval=3", "task.fault.step=2")
    train(*SMALL["classify"], "debug=nan", *short, "run.id=run")
    run = str(outputs / "run")
    with contextlib.chdir(outputs.parent):
        assert BatchCommand().run(["run", "--step", "2", "--samples", "1"]) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0] == f"step 2: epoch 1, batch 2 of 23 ({Path('outputs', 'run')})"
    assert said[1] == "  journal   train_loss nan"
    assert said[3].startswith("  [0]  float32 64 x 1 x 8 x 8  min 0  max 1  mean 0.3")
    assert said[3].endswith("NOT FINITE: 64")
    assert len(said) == 6
    assert BatchCommand().run([run, "--step", "23"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "note: the run has not got there: its journal ends at step 3"
    (tmp_path / "there").touch()
    for arguments, what in (
        (["--step", "0"], "--step 0: steps count from 1"),
        (["--step", "24"], "step 24 would be of epoch 2, but the run ends with epoch 1"),
        (["--step", "1", "--save", str(tmp_path / "there")], "there: there is such a file already"),
        (["--step", "1", "resume=latest"], "resume=latest: the run is named without a key"),
        (["--step", "1", "task.nothing=1"], "task.nothing"),
        (["--step", "1", "--config-dir", str(tmp_path / "none")], "there is no such folder"),
    ):
        with pytest.raises(UserError, match=re.escape(what)):
            BatchCommand().run([run, *arguments])
    with pytest.raises(UserError, match="is no run"):
        BatchCommand().run([str(tmp_path), "--step", "1"])
    with pytest.raises(SystemExit, match="2"):
        BatchCommand().run([run, "--step", "1", "--sample"])
    assert capfd.readouterr().err.startswith("error: there is no --sample: did you mean --samples?")


def test_nothing_that_a_run_directory_names_is_made(
    train: Train, outputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(*SMALL["classify"], "plots=[]", "trainer.max_steps=1", "run.id=run")
    file = outputs / "run" / "config.json"
    config, marker = json.loads(file.read_text()), tmp_path / "executed"
    evil = {"_target_": "pathlib.Path.touch", "_args_": [str(marker)]}
    config["config"]["task"]["data"] = config["config"]["task"]["fault"] = evil
    config["overrides"] += ["task.data._target_=pathlib.Path.touch"]
    config["resumes"] = [{"step": 0, "overrides": config["overrides"], "changed": []}]
    file.write_text(json.dumps(config))
    assert BatchCommand().run([str(outputs / "run"), "--step", "1"]) == 0
    assert "task.data._target_=pathlib.Path.touch is not taken over from the run" in capfd.readouterr().err
    assert not marker.exists()


class Stream:
    """Batches without a length."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.arange(10).split(4))


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("loader", ["loader", "stream"])
def test_a_loader_of_ones_own_is_drawn_again(loader: str, pieces: int) -> None:
    def batches() -> Batches:
        data = TensorDataset(torch.arange(18))
        made = Stream() if loader == "stream" else DataLoader(data, batch_size=4, shuffle=True)
        return Batches(made, 4, seed=3, pieces=pieces)

    whole = batches()
    steps = list(itertools.chain.from_iterable(whole.epoch(epoch) for epoch in range(3)))
    for step, really in enumerate(steps, start=1):
        found = batch_of(batches(), Place(0, 0, 0), step, max_epochs=3)
        assert same(found.pieces, [batch for batch, _ in really.pieces])
        assert found.indices is None
        assert "the data loader is your own" in found.notes[0]
    with pytest.raises(UserError, match="the run ends with epoch 3"):
        batch_of(batches(), Place(0, 0, 0), len(steps) + 1, max_epochs=3)


class Drawn(Dataset[torch.Tensor]):
    """Samples with random numbers from the global generator."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return index + torch.rand(1)


def test_expkit_finds_the_commands() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    commands = project["entry-points"]["expkit.commands"]
    for name in ("batch", "bisect-nan"):
        module, _, command = commands[name].partition(":")
        assert getattr(importlib.import_module(module), command)().summary


def test_random_numbers_that_cannot_be_had_again_are_said() -> None:
    state = torch.get_rng_state()
    found = batch_of(Batches(Drawn(), 4), Place(0, 0, 0), 2)
    assert "global random generators" in found.notes[0]
    assert found.indices is not None
    assert [int(value) for value in found.pieces[0]] == found.indices[0]
    assert torch.equal(torch.get_rng_state(), state)


def test_loading_processes_give_the_same() -> None:
    make = functools.partial(Batches, Drawn(), 4, seed=1, num_workers=1)
    (_, really) = make().epoch(0)
    found = batch_of(make(), Place(0, 0, 0), 2)
    assert same(found.pieces, [batch for batch, _ in really.pieces])
    assert found.notes == []  # there, they are keyed on (seed, epoch, batch)
