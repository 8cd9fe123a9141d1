"""`python -m sweeps.batch_size` and `profile_batch_sizes`, as they are typed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra.core.hydra_config import HydraConfig

from expkit.errors import UserError
from sweeps import batch_size
from sweeps.batch_size import main, profile_batch_sizes
from sweeps.profile import jobs as made_jobs
from sweeps.profile.result import Profile, failed
from sweeps.profile.supervise import Order
from train.api import create_config

TASK = """
import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

from train.tasks import StepOutput, Task


class HeavyTask(Task):
    '''A line, each sample of which takes a MB more of memory.'''

    def __init__(self, hang: int = 0):
        self.hang = hang

    def build_model(self):
        return nn.Linear(1, 1)

    def train_data(self):
        x = torch.linspace(-1, 1, 2048).unsqueeze(1)
        return TensorDataset(x, 2 * x)

    def val_data(self):
        return None

    def step(self, model, batch):
        x, y = batch
        if len(x) == self.hang:
            time.sleep(1000)
        heavy = torch.zeros(len(x), 2**18)
        return StepOutput((model(x) - y).square().mean() + 0 * heavy[0, 0], {}, len(x))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with a task whose memory grows with the batch."""
    (tmp_path / "my_conf" / "task").mkdir(parents=True)
    (tmp_path / "my_conf" / "task" / "heavy.yaml").write_text("_target_: heavy_task.HeavyTask\nhang: 0\n")
    (tmp_path / "heavy_task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


HEAVY = ("--config-dir", "my_conf", "task=heavy", "optimizer=sgd", "epochs=0.02")


def test_a_size_that_runs_out_of_memory_costs_only_itself(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*HEAVY, "batch_sizes=[8,2048]", "memory_limit_gb=1.2", "output=profile.md"]) == 0, "the parent lives"
    report = json.loads((folder / "profile.json").read_text())
    assert [each["status"] for each in report["profiles"]] == ["OK", "OOM"]
    assert "can't allocate memory" in report["profiles"][1]["message"]
    assert report["profiles"][1]["message"].endswith("(memory_limit_gb=1.2)")
    assert report["recommendation"]["batch_size"] == 8
    said = capfd.readouterr()
    typed = "python -m train --config-dir my_conf task=heavy optimizer=sgd trainer.batch_size=8"
    assert f"use it:  {typed}\n" in said.out and said.err == ""
    markdown = (folder / "profile.md").read_text()
    assert re.search(r"\| 2,048 +\| OOM +\| .* \| OOM +\|", markdown) and f"`{typed}`" in markdown
    assert (folder / "profile.png").exists()
    assert sorted(file.name for file in (folder / "profile.logs").glob("*[0-9].log")) == ["2048.log", "8.log"]


class Faked:
    """Jobs that are done at once: `outcome(order)` is what comes of each."""

    outcome: Callable[[Order], Profile]
    orders: list[Order]

    def __init__(self, *_: Any) -> None:
        pass

    def measure(self, orders: Sequence[Order], done: Callable[[Profile], None]) -> None:
        for order in orders:
            self.orders.append(order)
            done(type(self).outcome(order))


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> type[Faked]:
    def good(order: Order) -> Profile:
        size = order.batch_size
        return Profile(
            size, "OK", samples_per_second=size, step_time=1.0, samples=1437, final_train_loss=1.0, rss_gb=1.0
        )

    class Here(Faked):
        outcome = staticmethod(good)
        orders: list[Order] = []  # noqa: RUF012 - of this test alone

    monkeypatch.setattr(made_jobs, "Jobs", Here)
    return Here


def test_python_gets_a_profile_for_each_size(faked: type[Faked], folder: Path) -> None:
    config = create_config("denoise")
    config["training"]["seed"] = 7
    found = profile_batch_sizes(config, batch_sizes=[128, 64, 5000], test_epochs=3)
    assert [(each.batch_size, each.status, each.oom_error) for each in found] == [
        (64, "OK", False),
        (128, "OK", False),
        (5000, "ERROR", False),
    ]
    assert "more than the 1,437 training samples" in found[2].message
    assert len(faked.orders) == 2, "what is known not to fit is not begun"
    assert (faked.orders[0].epochs, faked.orders[0].config["trainer"]["seed"]) == (3.0, 7)
    assert {path.name for path in folder.iterdir()} == {"my_conf", "heavy_task.py"}, "no report was asked for"
    for name in ("time_per_epoch", "gpu_memory_gb", "samples_per_second", "final_train_loss", "final_test_loss"):
        assert hasattr(found[0], name)


def test_a_configuration_comes_in_any_form_that_train_knows(
    faked: type[Faked], folder: Path, compose: Callable[..., Any]
) -> None:
    (folder / "x.json").write_text('{"task": "classify", "training": {"seed": 3}}')
    profile_batch_sizes("classify", [8], output_path="a.md")
    profile_batch_sizes("x.json", [8], output_path="b.md", overrides=["optimizer.lr=0.5"])
    composed = compose("task=classify", "trainer.seed=5", "tracker=wandb")
    HydraConfig.instance().cfg = None  # whoever composed it has done with Hydra
    profile_batch_sizes(composed, [8], output_path="c.md")
    assert [order.config["trainer"]["seed"] for order in faked.orders] == [0, 3, 5]
    assert not any("tracker" in order.config for order in faked.orders), "nor any of its secrets"
    profile_batch_sizes("heavy", [8], config_dir="my_conf")
    assert faked.orders[3].config["task"]["_target_"] == "heavy_task.HeavyTask"
    assert faked.orders[1].config["optimizer"]["lr"] == 0.5
    assert "`python -m train task=classify trainer.batch_size=8`" in Path("a.md").read_text()
    assert "`python -m train config_file=x.json optimizer.lr=0.5 trainer.batch_size=8`" in Path("b.md").read_text()
    assert "Use it: `trainer.batch_size=8`" in Path("c.md").read_text(), "that one cannot be typed"


def test_sizes_that_nobody_has_named_are_found(faked: type[Faked]) -> None:
    found = profile_batch_sizes("denoise", "auto")
    assert [each.batch_size for each in found] == [8, 16, 32, 64, 128, 256, 512, 768, 896, 1024], "up to all samples"


def test_an_interrupted_profile_keeps_what_was_measured(
    faked: type[Faked], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = faked.outcome

    def outcome(order: Order) -> Profile:
        if order.batch_size == 16:
            raise KeyboardInterrupt
        return good(order)

    monkeypatch.setattr(faked, "outcome", staticmethod(outcome))
    assert main(["task=denoise", "batch_sizes=[8,16,32]"]) == 130
    assert "**Interrupted**" in Path("batch_profile.md").read_text()
    assert "Optimal batch size: 8 " in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        profile_batch_sizes("denoise", [8, 16], output_path="p.md")
    assert Path("p.md").exists()


def test_a_configuration_that_no_size_can_be_trained_with_ends_it_at_once(
    faked: type[Faked], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = staticmethod(lambda order: failed(order.batch_size, "ERROR", "task: no such file", about_size=False))
    monkeypatch.setattr(faked, "outcome", refused)
    assert main(["task=denoise", "batch_sizes=[8,16]"]) == 1
    assert capsys.readouterr().err == "error: task: no such file\n"
    assert len(faked.orders) == 1 and not Path("batch_profile.md").exists()


def test_exit_code_1_where_no_size_could_be_measured(
    faked: type[Faked], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(faked, "outcome", staticmethod(lambda order: failed(order.batch_size, "OOM", "no memory")))
    assert main(["task=denoise", "batch_sizes=[8,16]"]) == 1
    assert "no batch size was measured" in capsys.readouterr().err and Path("batch_profile.md").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ((), "say what to profile"),
        (("task=denoise", "epochs=none"), "epochs=none: it must be a number of epochs, more than 0"),
        (("task=denoise", "memory_limit_gb=-1"), "memory_limit_gb=-1"),
        (("task=denoise", "--batch-sizes", "8"), "without dashes: batch_sizes=..."),
        (("task=denois",), "did you mean denoise?"),
        (("task=denoise", "hydra/launcher=basic"), "use local or slurm"),
        (("task=denoise", "sweep=seeds"), "sweep=seeds: a profile tries batch sizes, and nothing else"),
        (("config_file=nope.json",), "nope.json: there is no such file"),
    ],
)
def test_a_mistake_is_one_line(
    typed: Sequence[str], said: str, faked: type[Faked], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert {path.name for path in folder.iterdir()} <= {"my_conf", "heavy_task.py"} and not faked.orders


def test_an_unknown_configuration_from_python_is_one_line(faked: type[Faked]) -> None:
    with pytest.raises(UserError, match="did you mean denoise"):
        profile_batch_sizes("denoisy", [8])
    with pytest.raises(UserError, match="give a configuration"):
        profile_batch_sizes(3, [8])  # type: ignore[arg-type]


def test_the_old_script_takes_what_the_guide_types(faked: type[Faked], folder: Path, monkeypatch: Any) -> None:
    import runpy

    (folder / "x.json").write_text('{"task": "denoise"}')
    script = Path(batch_size.__file__).parents[1] / "scripts" / "batch_size_profiler.py"
    typed = ["x.json", "--batch-sizes", "64", "128", "--epochs", "2", "--output", "out.md"]
    monkeypatch.setattr(sys, "argv", [str(script), *typed])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0 and (folder / "out.md").exists()
    assert [(order.batch_size, order.epochs) for order in faked.orders] == [(64, 2.0), (128, 2.0)]


@pytest.mark.slow
@pytest.mark.parametrize("group", [True, False])
def test_ctrl_c_ends_all_processes(folder: Path, group: bool) -> None:
    command = [sys.executable, "-m", "sweeps.batch_size", *HEAVY, "batch_sizes=[8,16]", "task.hang=16"]
    root = str(Path(batch_size.__file__).parents[1])
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    while "OK" not in process.stdout.readline():
        assert process.poll() is None
    children: list[psutil.Process] = []
    while not any("sweeps.profile.measure" in each.cmdline() for each in children):
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.1)
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    psutil.wait_procs(children, 20)
    assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert "Optimal batch size: 8" in (folder / "batch_profile.md").read_text().replace("**", "")


@pytest.mark.slow
def test_only_the_largest_of_three_sizes_fails(folder: Path) -> None:
    assert main([*HEAVY, "batch_sizes=[8,256,2048]", "memory_limit_gb=1.2"]) == 0
    report = json.loads((folder / "batch_profile.json").read_text())
    assert [each["status"] for each in report["profiles"]] == ["OK", "OK", "OOM"]


def test_a_launcher_of_a_profile_needs_no_m(folder: Path) -> None:
    """`python -m train` refuses one without -m."""
    from sweeps.profile.settings import compose_setup

    assert compose_setup("denoise", ["hydra/launcher=local"], None, 1).kind == "local"
