"""`expkit verify-resume`: OK for what resumes exactly, and for what does not the first difference and its cause."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.errors import UserError
from tests.conftest import SMALL, options, train_environment
from train.verify import child, runs
from train.verify.command import VerifyResumeCommand, describe

ROOT = Path(__file__).parents[2]


class Forked:
    """A run in a process that is forked from this one: its imports are paid already."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                with log.open("wb") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
                code = child.main(arguments)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            except BaseException:  # noqa: BLE001 - pytest must never go on in the child
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(70)

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., runs.Verdict]:
    """Call as `verify("task=...", ...)`."""
    torch.set_num_threads(1)
    for module in ("train.cli.main", "sklearn.cluster", "torch._dynamo"):  # what every child would import
        importlib.import_module(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    folder = tmp_path / "verify"

    def run(*typed: str, **more: Any) -> runs.Verdict:
        folder.mkdir()
        return runs.verify(typed, folder, start=Forked, **more)

    return run


@pytest.fixture
def faulty(verify: Callable[..., runs.Verdict], tmp_path: Path) -> Callable[..., runs.Verdict]:
    """Call as `faulty("ClockTask", ...)`: verify a task of tests/train/faulty_tasks.py."""
    where = "tests.train.faulty_tasks"
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "optimizer").mkdir(parents=True)

    def run(task: str, *typed: str, optimizer: str | None = None) -> runs.Verdict:
        (tmp_path / "conf" / "task" / "faulty.yaml").write_text(f"_target_: {where}.{task}\n")
        if optimizer is not None:
            text = f"_target_: {where}.{optimizer}\n_partial_: true\nlr: 0.01\n"
            (tmp_path / "conf" / "optimizer" / "faulty.yaml").write_text(text)
            typed = ("optimizer=faulty", *typed)
        return verify("--config-dir", str(tmp_path / "conf"), "task=faulty", "trainer.batch_size=4", *typed)

    return run


@pytest.mark.parametrize(
    "task", [task if task == "denoise" else pytest.param(task, marks=pytest.mark.slow) for task in options("task")]
)
def test_the_bundled_tasks_resume_exactly(verify: Callable[..., runs.Verdict], task: str) -> None:
    verdict = verify(*SMALL[task], "diagnostics=blob" if task == "denoise" else "diagnostics=[]")
    assert verdict.ok, describe(verdict)
    assert verdict.resumed_at < verdict.killed_at < 30
    assert verdict.where.startswith("in the middle of epoch")
    assert verdict.compared["batch"] == 30 - verdict.resumed_at
    assert all(verdict.compared[kind] for kind in verdict.compared if kind != "scheduler")
    assert describe(verdict).startswith("OK: killed in step 17, resumed from the checkpoint of step 15")


@pytest.mark.slow
@pytest.mark.parametrize("more", ["trainer.num_workers=2 trainer.grad_accumulation=2", "trainer.precision=bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "sgld"])
@pytest.mark.parametrize("task", options("task"))
def test_they_do_with_every_optimizer(
    verify: Callable[..., runs.Verdict], task: str, optimizer: str, more: str
) -> None:
    verdict = verify(*SMALL[task], f"optimizer={optimizer}", "scheduler=cosine", *more.split())
    assert verdict.ok, describe(verdict)
    assert verdict.compared["scheduler"]


ALWAYS = [
    ("OwnGeneratorTask", None, "batch", r"generator of its own.*faulty_tasks\.RNG", "seed, epoch, index"),
    ("StatefulDataTask", None, "batch", r"training data\.drawn \(\d+ without the stop, 4 after it\)", "docs/resume.md"),
    ("CountingModelTask", None, "loss", r"outside of the model's state_dict.*model\.1\.calls", "register_buffer"),
    (
        "Regression",
        "HiddenMomentum",
        "weights",
        r"not in its state_dict.*optimizer\.momentum\[0\.weight\]",
        "self.state",
    ),
]
MORE = [
    ("Regression", "ForgetfulSGD", "optimizer", r"momentum_buffer of 0\.weight is not in its state_dict", "return all"),
    ("PrivateRandomTask", None, "loss", r"generator that no checkpoint holds: look at task\.generator", "global"),
    (
        "IteratorTask",
        None,
        "batch",
        r"the batch that the run which was never stopped had at step \d+",
        "ResumableSampler",
    ),
    ("SometimesDrawsTask", None, "rng", r"drew from the python generator.*task\.ready \(True.*False", "seeded"),
    ("LoggingTask", None, "journal", r"what is logged depends on something else: look at task\.seen", "report sums"),
]
FAULTS = [*ALWAYS, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE)]


@pytest.mark.parametrize(("task", "optimizer", "kind", "cause", "cure"), FAULTS)
def test_what_does_not_resume_exactly_is_named_with_its_cause(
    faulty: Callable[..., runs.Verdict], task: str, optimizer: str | None, kind: str, cause: str, cure: str
) -> None:
    more = ("+optimizer.momentum=0.9",) if optimizer == "ForgetfulSGD" else ()
    verdict = faulty(task, *more, optimizer=optimizer)
    assert verdict.difference, "it must not be OK"
    assert (verdict.ok, verdict.deterministic, verdict.difference.kind) == (False, True, kind), describe(verdict)
    late = {"rng": 2, "journal": 4}  # the generators are looked at before a step draws; logged is every epoch of 5
    assert verdict.difference.step == verdict.resumed_at + (0 if verdict.difference.restored else late.get(kind, 1))
    assert re.search(cause, verdict.cause), verdict.cause
    assert cure in verdict.cure
    assert verdict.difference.expected != verdict.difference.found
    assert describe(verdict).startswith("DIFFERENT: after the resume")


def test_a_task_that_is_not_deterministic_is_told_from_a_resume_fault(faulty: Callable[..., runs.Verdict]) -> None:
    verdict = faulty("ClockTask")
    assert verdict.difference
    assert (verdict.ok, verdict.deterministic) == (False, False)
    assert (verdict.difference.kind, verdict.difference.step) == ("loss", 1)
    said = describe(verdict)
    assert said.startswith("NOT DETERMINISTIC: the task itself differs from run to run, without any resume")
    assert "the time" in verdict.cause
    assert "from the same batch, weights and generators another loss" in verdict.cause


@pytest.mark.slow
def test_chance_that_shows_after_the_stop_only_is_chance_all_the_same(faulty: Callable[..., runs.Verdict]) -> None:
    verdict = faulty("LateClockTask")
    assert verdict.difference
    assert (verdict.deterministic, verdict.difference.kind, verdict.difference.step) == (False, "loss", 20)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `expkit verify-resume` does, in processes of their own."""
    code = "import sys; from train.verify.command import VerifyResumeCommand as C; sys.exit(C().run(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=folder,
        env={**train_environment(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_an_order_that_differs_from_process_to_process_is_found_by_real_processes(tmp_path: Path) -> None:
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "mine.yaml").write_text("_target_: tests.train.faulty_tasks.SetOrderTask\n")
    (tmp_path / "train.py").write_text("1 / 0  # somebody's own script: not what this command runs\n")
    arguments = ("--config-dir", "conf", "task=mine", "trainer.batch_size=5", "--steps=5", "--json", "--keep", "kept")
    done = command(tmp_path, *arguments)
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert (said["ok"], said["deterministic"], said["difference"]["kind"]) == (False, False, "batch")
    assert "the order of a set" in said["cause"]
    assert {"whole.jsonl", "stopped.jsonl", "whole.log", "whole", "stopped"} <= {
        path.name for path in (tmp_path / "kept").iterdir()
    }


@pytest.mark.slow
def test_the_command_says_ok_in_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = command(tmp_path, *SMALL["denoise"], "trainer.num_workers=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("OK: ")
    assert done.stdout.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["resume=latest"], "resume=latest: this command resumes its own run: leave it out"),
        (["run.id=mine"], "--keep DIR says where"),
        (["trainer.max_steps=9"], "--steps N says how many"),
        (["-m", "optimizer.lr=1,2"], "-m belongs to python -m train"),
        (["--steps", "2"], "--steps 2: at least 3"),
        (["--kill-at", "30"], "--kill-at 30: choose a step from 2 to 29"),
        (["--keep", "."], "this folder is not empty"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], says: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(says)) as raised:
        VerifyResumeCommand().run(typed)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("checkpoint=none",), "checkpoint=none cannot be resumed"),
        pytest.param(("optimizer=adm",), "did you mean adam", marks=pytest.mark.slow),
        pytest.param(("trainer.max_epochs=3",), "the run ended at step 15, before it could", marks=pytest.mark.slow),
    ],
)
def test_a_task_that_does_not_train_is_one_line(faulty: Callable[..., runs.Verdict], typed: Any, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as raised:
        faulty("Regression", *typed)
    assert "\n" not in str(raised.value)


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        VerifyResumeCommand().run(["--help"])
    assert ended.value.code == 0
    assert "expkit verify-resume task=my_task --config-dir my_conf" in capsys.readouterr().out


def test_expkit_finds_the_command() -> None:
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["expkit.commands"]
    module, _, name = entry["verify-resume"].partition(":")
    assert getattr(importlib.import_module(module), name) is VerifyResumeCommand
    assert len(VerifyResumeCommand.summary) < 100
