"""Runs that were rewound, or whose layers were switched, killed and resumed: they end as if they had not been."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.experiment import RunDir
from expkit.journal import read_journal
from expkit.snapshots import list_snapshots
from tests.conftest import SMALL, Train
from tests.train.forked import Forked
from tests.train.helpers import BACK_AND_FORTH, own_options, same
from train import continuing
from train.runner import Runner
from train.saving import Saver

COMMON = ("tracker=[]", "plots=[]", "trainer.deterministic=true", "trainer.threads=1", "checkpoint.keep_last_n=99")


@pytest.fixture
def conf(tmp_path: Path) -> tuple[str, str]:
    """Where the task and the detectors of `tests.train.troubled` are options."""
    options = {
        "task/troubled": "_target_: tests.train.troubled.TroubledTask\nbad_epoch: 3\n",
        "task/spared": "_target_: tests.train.troubled.SparedTask\nbad_epoch: 3\n",
        "detectors/spoilt": "# @package detectors.spoilt\n_target_: tests.train.troubled.LossNan\nrespond: [skip]\n",
        "detectors/back_and_forth": BACK_AND_FORTH,
    }
    return own_options(tmp_path / "conf", options)


def killed(outputs: Path, *arguments: str, when: Callable[[Runner], bool]) -> None:
    """Train until a step boundary, everything due saved, and get a SIGKILL there."""
    really = Runner._after_step

    def after(self: Runner) -> bool:
        stop = really(self)
        if when(self):
            assert isinstance(self.save, Saver)
            self.save.checkpoints.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return stop

    process = Forked(outputs, *arguments, setup=lambda: setattr(Runner, "_after_step", after))
    assert process.end() == -signal.SIGKILL, process.said


def config_of(run: Path) -> Any:
    return json.loads((run / "config.json").read_text())


def losses(run: Path) -> list[float]:
    return [loss for entry in read_journal(run / "logs" / "metrics.jsonl") for loss in entry["series"]["train_loss"]]


def last(run: Path) -> dict[str, Any]:
    """Return model and optimizer at the end of a run."""
    step = json.loads((run / "status.json").read_text())["step"]
    state = torch.load(run / "checkpoints" / f"checkpoint_step_{step}.pt", weights_only=True)
    return {key: state[f"{key}_state_dict"] for key in ("model", "optimizer")}


def test_a_run_that_skips_a_batch_ends_like_one_that_never_saw_it(
    train: Train, outputs: Path, conf: tuple[str, ...]
) -> None:
    common = (
        *conf,
        *COMMON,
        "trainer.batch_size=8",
        "trainer.max_epochs=3",
        "task.bad_epoch=1",
        "trainer.eval_interval=30",
    )
    train(*common, "task=troubled", "detectors=[spoilt]", "run.id=skipped")
    train(*common, "task=spared", "detectors=[]", "run.id=spared")
    steps = [json.loads((outputs / each / "status.json").read_text())["step"] for each in ("skipped", "spared")]
    assert steps == [30, 29]
    one, other = (last(outputs / each) for each in ("skipped", "spared"))
    assert same(one["model"], other["model"])
    assert same(one["optimizer"]["state"], other["optimizer"]["state"])  # moments, and how many updates there were


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_rewind_is_the_same_wherever_it_is_killed(
    train: Train, outputs: Path, conf: tuple[str, ...], everywhere: bool
) -> None:
    common = (
        *(*conf, *COMMON, "task=troubled", "detectors=[spoilt]", "detectors.spoilt.respond=[lower_lr,rewind]"),
        *("trainer.batch_size=8", "trainer.max_epochs=3", "trainer.log_interval=5", "checkpoint.save_interval=3"),
        *(
            "task.bad_epoch=1",
            "trainer.eval_interval=30",
            "responses.rewind_back=5",
            "responses.rewind_clean=5",
            "responses.rewind_skip=4",
        ),
    )
    train(*common, "run.id=whole")
    whole = outputs / "whole"
    (rewind,) = [each["rewind"] for each in config_of(whole)["resumes"]]
    assert rewind["step"] < rewind["at"] - 1
    dies = functools.partial(setattr, continuing, "go_back", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    process = Forked(outputs, *common, "run.id=cut", setup=dies)  # noted is the rewind, and nothing done about it yet
    assert process.end() == -signal.SIGKILL, process.said
    cut = outputs / "cut"
    steps = [rewind["step"] + 1, rewind["at"], rewind["at"] + 1]  # the first before anything is saved
    for step in steps if everywhere else steps[:1]:
        killed(outputs, *conf, "resume=cut", when=lambda runner, step=step: runner.progress.step == step)
    train(*conf, "resume=cut")
    assert [each["rewind"] for each in config_of(cut)["resumes"] if "rewind" in each] == [rewind], "counted once"
    assert losses(cut) == losses(whole)
    assert same(last(cut), last(whole))


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_layers_switch_back_and_forth_and_a_kill_on_any_side_changes_nothing(
    train: Train, outputs: Path, conf: tuple[str, ...], everywhere: bool
) -> None:
    common = (
        *(*conf, *COMMON, *SMALL["classify"], "diagnostics=svd", "diagnostics.svd.interval=2"),
        *("detectors=[back_and_forth]", "trainer.max_epochs=null", "trainer.max_steps=20", "trainer.batch_size=32"),
        *("trainer.log_interval=2", "trainer.eval_interval=20", "checkpoint.save_interval=1"),
    )
    train(*common, "run.id=whole")
    whole, cut = outputs / "whole", outputs / "cut"
    done = [json.loads(line) for line in (whole / "logs" / "events.jsonl").read_text().splitlines()]
    switched = {event["step"]: event["message"] for event in done if event["kind"] == "response"}
    assert [message.split(" is ")[1] for message in switched.values()] == [
        f"{mode} from here on" for mode in ("LOW-RANK", "FULL", "LOW-RANK")
    ]
    arguments: tuple[str, ...] = (*common, "run.id=cut")
    steps = [before + side for before in sorted(switched)[:2] for side in (-1, 0)]
    for step in steps if everywhere else steps[-1:]:
        killed(outputs, *arguments, when=lambda runner, step=step: runner.progress.step == step)
        arguments = (*conf, "resume=cut")
    train(*arguments)
    assert losses(cut) == losses(whole)
    assert same(last(cut), last(whole))


def test_a_best_model_whose_snapshot_has_to_wait_for_its_weights_survives_a_kill(
    train: Train, outputs: Path, conf: tuple[str, ...]
) -> None:
    common = (
        *(*conf, *COMMON, "task=troubled", "task.bad_epoch=-1", "detectors=[best_model]"),
        *("trainer.batch_size=8", "trainer.max_epochs=3", "trainer.log_interval=10", "checkpoint.save_interval=1000"),
        "optimizer.lr=0.1",
    )
    train(*common, "run.id=whole")
    (snapshot,) = list_snapshots(RunDir(outputs / "whole"))
    assert snapshot.step == 20 and snapshot.checkpoint_step in (20, 21)  # the last that was written by then
    killed(outputs, *common, "run.id=cut", when=lambda runner: runner.progress.step == 22)
    assert not list_snapshots(RunDir(outputs / "cut"))
    train(*conf, "resume=cut")
    (again,) = list_snapshots(RunDir(outputs / "cut"))
    assert (again.reason, again.step, again.checkpoint_step) == (snapshot.reason, snapshot.step, 21)
