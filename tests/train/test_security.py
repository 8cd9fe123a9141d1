"""Nothing in a run directory is executed, and a secret is not said."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import expkit.cli.main
from expkit import ConfigTracker, MetricsLogger, VisualizationManager
from expkit.checkpoints import CheckpointManager
from expkit.errors import UserError
from tests.conftest import Train, train_command
from train.api import load_results
from train.cli.main import main

SMALL = ("task.model.hidden=8", "trainer.max_epochs=2", "trainer.num_workers=0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run with everything that a run can leave behind."""
    outputs = tmp_path_factory.mktemp("finished")
    argv, before = sys.argv, Path.cwd()
    sys.argv = list(sys.argv)
    os.chdir(outputs)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WANDB_MODE", "offline")
            assert main(train_command(outputs, "run.id=mine", "tracker=wandb", "plots=[]", *SMALL)[2:]) == 0
            CheckpointManager(outputs / "mine").rewind(40)
            assert main(train_command(outputs, "resume=mine", "tracker=[tensorboard]", "plots=[]")[2:]) == 0
    finally:
        sys.argv = argv
        os.chdir(before)
    yield outputs / "mine"


@pytest.fixture
def run(finished: Path, outputs: Path) -> Path:
    shutil.copytree(finished, outputs / "mine", symlinks=True)
    return outputs / "mine"


class Evil:
    """What touches a marker as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What must never appear; it would, if any of these were loaded in the way that is not safe."""
    marker = tmp_path / "marker"
    for content in payloads(marker, None).values():
        file = tmp_path / "payload"
        file.write_bytes(content)
        with contextlib.suppress(Exception):
            torch.load(file, weights_only=False)
        assert marker.exists()
        marker.unlink()
    pickle.loads(payloads(marker, None)["pickle"])
    marker.unlink()
    return marker


def payloads(marker: Path, checkpoint: Path | None) -> dict[str, bytes]:
    """What is planted: a bare pickle, a zip of torch's, its older format, and a checkpoint with something added."""
    made = {"pickle": pickle.dumps(Evil(marker), protocol=2)}
    place = marker.with_name("making.pt")
    torch.save({"model_state_dict": Evil(marker)}, place)
    made["zip"] = place.read_bytes()
    torch.save({"model_state_dict": Evil(marker)}, place, _use_new_zipfile_serialization=False)
    made["older"] = place.read_bytes()
    if checkpoint is not None:
        torch.save({**torch.load(checkpoint, weights_only=True), "extra": Evil(marker)}, place)
        made["checkpoint"] = place.read_bytes()
    place.unlink()
    return made


def openers(run: Path) -> dict[str, Callable[[], object]]:
    """Everything that opens a run, besides a resume."""

    def compare() -> None:
        results = ConfigTracker(run).load_results()
        history = [entry["train"]["loss"] for entry in results["training_history"]]
        experiments = [{"name": "mine", "loss_history": history, "metrics": results["final_metrics"]}]
        VisualizationManager(run / "visualizations").generate_comparison_plots(experiments)

    return {
        "show": lambda: expkit.cli.main.main(["show", str(run)]),
        "checkpoints": lambda: expkit.cli.main.main(["checkpoints", str(run), "--verify"]),
        "load_results": lambda: load_results(run),
        "metrics": lambda: MetricsLogger(run / "logs").load_metrics(),
        "config": lambda: ConfigTracker(run).load_config(),
        "results": lambda: ConfigTracker(run).load_results(),
        "pictures": compare,
        "load_latest": lambda: CheckpointManager(run).load_latest_checkpoint(),
        "list": lambda: CheckpointManager(run).list_checkpoints(),
    }


#: What reads checkpoints, and nothing else of a run's files.
OF_CHECKPOINTS = ("checkpoints", "load_latest", "list")


def open_everywhere(
    run: Path, marker: Path, capfd: pytest.CaptureFixture[str], planted: str, names: Sequence[str]
) -> None:
    """Open a run in many ways: one clear line or none at all, never a traceback, and never the marker."""
    for name, opener in openers(run).items():
        if name not in names:
            continue
        with contextlib.suppress(UserError):
            opener()
        said = capfd.readouterr()
        assert "Traceback" not in said.out + said.err, (planted, name, said)
        assert not marker.exists(), (planted, name)


def resume(train: Train, run: Path, marker: Path, planted: str) -> None:
    done = train(f"resume={run}", "trainer.max_epochs=3", "tracker=[tensorboard]", "plots=[]", check=False)
    assert "Traceback" not in done.stderr, (planted, done.stderr)
    assert done.returncode in (0, 1), (planted, done.stderr)
    assert done.returncode == 0 or done.stderr.strip().splitlines()[-1].startswith("error: "), (planted, done.stderr)
    assert not marker.exists(), planted


def files(run: Path) -> list[str]:
    """Every file of a run, links too."""
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_symlink() or path.is_file())


def plant(run: Path, name: str, content: bytes) -> None:
    """Put `content` in place of a file, or of a link."""
    (run / name).unlink()
    (run / name).write_bytes(content)


def fresh(finished: Path, outputs: Path) -> Path:
    shutil.rmtree(outputs / "mine", ignore_errors=True)
    shutil.copytree(finished, outputs / "mine", symlinks=True)
    return outputs / "mine"


def test_there_are_files_of_every_kind(finished: Path) -> None:
    there = files(finished)
    for part in ("config.json", "results.json", "status.json", "metrics.jsonl", "delivery.json", ".hydra/config.yaml"):
        assert any(name.endswith(part) for name in there), there
    for part in ("checkpoint_latest.pt", "checkpoint_best.pt", ".rewound", "wandb", "tensorboard", "resume_1"):
        assert any(part in name for name in there), there


@pytest.mark.parametrize("all_ways", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_pickle_in_any_file_is_not_executed_by_what_opens_runs(
    finished: Path, outputs: Path, marker: Path, capfd: pytest.CaptureFixture[str], all_ways: bool
) -> None:
    everything = list(openers(finished))
    kinds = payloads(marker, finished / "checkpoints" / "checkpoint_best.pt")
    run = fresh(finished, outputs)
    for name in files(finished):
        of_checkpoints = ".pt" in name
        of_kind = ("pickle",) if not of_checkpoints else kinds if all_ways else ("pickle", "checkpoint")
        for kind in of_kind:
            plant(run, name, kinds[kind])
            ways = everything if all_ways else [way for way in everything if (way in OF_CHECKPOINTS) == of_checkpoints]
            if name != "results.json" and not all_ways:
                ways = [way for way in ways if way != "pictures"]  # they take a while, and read nothing else
            open_everywhere(run, marker, capfd, f"{kind} in {name}", ways)
            if of_checkpoints or all_ways or (finished / name).is_symlink():
                run = fresh(finished, outputs)
            else:
                shutil.copy(finished / name, run / name)


def test_a_pickle_is_not_executed_by_a_resume(train: Train, finished: Path, outputs: Path, marker: Path) -> None:
    kinds = payloads(marker, finished / "checkpoints" / "checkpoint_best.pt")
    names = files(finished)
    others = [name for name in names if name != "config.json" and ".pt" not in name]
    for kind, planted in (
        ("checkpoint", [name for name in names if ".pt" in name]),
        ("zip", [name for name in names if ".pt" in name][-2:]),
        ("pickle", ["config.json"]),
        ("pickle", others),
    ):
        run = fresh(finished, outputs)
        for name in planted:
            plant(run, name, kinds[kind])
        resume(train, run, marker, f"{kind} in {planted}")


@pytest.mark.slow
def test_a_pickle_in_any_single_file_is_not_executed_by_a_resume(
    train: Train, finished: Path, outputs: Path, marker: Path
) -> None:
    kinds = payloads(marker, finished / "checkpoints" / "checkpoint_best.pt")
    for name in files(finished):
        for kind in kinds if ".pt" in name else ("pickle",):
            run = fresh(finished, outputs)
            plant(run, name, kinds[kind])
            resume(train, run, marker, f"{kind} in {name}")


def test_a_refused_checkpoint_is_said_and_the_older_one_is_taken(
    train: Train, run: Path, marker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    newest = CheckpointManager(run).latest_path()
    assert newest is not None
    content = payloads(marker, newest)["checkpoint"]
    plant(run, str(newest.relative_to(run)), content)
    shutil.copy(newest, newest.with_name("checkpoint_step_23.pt"))
    CheckpointManager(run).save_checkpoint(1, torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)], 1.0), [], {})
    assert expkit.cli.main.main(["checkpoints", str(run), "--verify"]) == 1
    assert "may run code when loaded: refused" in capfd.readouterr().out
    assert CheckpointManager(run).load_latest_checkpoint()["step"] == 1  # type: ignore[index]
    assert not marker.exists()


def test_tags_in_yaml_files_are_not_executed(train: Train, run: Path, tmp_path: Path, marker: Path) -> None:
    tag = f'!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ["{marker}"]]'
    for file in run.glob(".hydra/**/*.yaml"):
        file.write_text(f"run: {tag}\n")
    resume(train, run, marker, "tags in .hydra")
    own = tmp_path / "conf" / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(f"# @package _global_\nrun:\n  notes: {tag}\n")
    done = train("--config-dir", str(tmp_path / "conf"), "experiment=mine", *SMALL, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert not marker.exists()


def test_a_secret_that_was_typed_without_its_quotes_is_not_said(train: Train) -> None:
    said = train("responses.webhook=http://127.0.0.1/hook?key=T0K3N", check=False)
    assert said.returncode == 1
    assert "needs quotes" in said.stderr and "T0K3N" not in said.stdout + said.stderr
