"""`resume=SNAPSHOT`: a new run that begins where the snapshot was made, and the run that it is of stays as it was."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.experiment import RunDir
from expkit.journal import read_journal, stable
from expkit.snapshots import Observed, create
from expkit.snapshots.files import with_own_digest
from expkit.trackers import RunInfo
from expkit.trackers.tensorboard import TensorBoardTracker
from tests.conftest import Train, train_command
from tests.expkit.snapshots.making import MOMENT, Event
from train.cli.main import main
from train.resume import find_origin, merge_overrides

SMALL = (
    *("task.model.hidden=8", "trainer.max_steps=12", "trainer.max_epochs=null", "trainer.log_interval=2"),
    *(
        "trainer.deterministic=true",
        "trainer.eval_interval=4",
        "checkpoint.save_interval=3",
        "checkpoint.keep_last_n=9",
    ),
    *("tracker=[]", "plots=[]"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of 12 steps, with a snapshot of step 7 that holds the checkpoint of step 6."""
    outputs = tmp_path_factory.mktemp("finished")
    argv, before = sys.argv, Path.cwd()
    sys.argv = list(sys.argv)
    os.chdir(outputs)
    torch.set_num_threads(1)
    try:
        assert main(train_command(outputs, "run.id=parent", *SMALL)[2:]) == 0
    finally:
        sys.argv = argv
        os.chdir(before)
    run = RunDir(outputs / "parent")
    create(run, [Event()], Observed(7, MOMENT, 1.02), {}, run.checkpoints / "checkpoint_step_6.pt")
    yield run.root


@pytest.fixture
def parent(finished: Path, outputs: Path) -> Path:
    shutil.copytree(finished, outputs / "parent", symlinks=True)
    return outputs / "parent"


@pytest.fixture
def snapshot(parent: Path) -> Path:
    return next((parent / "snapshots").iterdir())


def journal(run: Path, after: int = 0) -> list[str]:
    return [repr(stable(entry)) for entry in read_journal(run / "logs" / "metrics.jsonl") if entry["step"] > after]


def weights(run: Path, step: int = 12) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"checkpoint_step_{step}.pt", weights_only=True)["model_state_dict"]


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def forks(outputs: Path) -> list[Path]:
    return sorted(path for path in outputs.iterdir() if path.name != "parent")


def config_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())


def test_with_nothing_changed_it_trains_what_the_run_has_trained(
    train: Train, outputs: Path, parent: Path, snapshot: Path
) -> None:
    before = content(parent)
    done = train(f"resume={snapshot}")
    (fork,) = forks(outputs)
    assert config_of(fork)["parent"] == {"run": "parent", "snapshot": snapshot.name, "step": 6}
    assert config_of(fork)["experiment_id"] == fork.name
    assert f"begins at step 6, with {snapshot.name} of run parent" in done.stdout + done.stderr
    assert (fork / "checkpoints" / "checkpoint_step_6.pt").samefile(snapshot / "model" / "checkpoint_step_6.pt")
    assert "missing or damaged" not in done.stdout + done.stderr
    assert journal(fork) == journal(parent, after=6)
    assert all(torch.equal(value, weights(parent)[name]) for name, value in weights(fork).items())
    status = json.loads((fork / "status.json").read_text())
    assert (status["state"], status["step"], status["restarts"]) == ("finished", 12, 0)
    assert content(parent) == before


def test_what_is_typed_comes_after_what_was_stored_wherever_the_snapshot_is(
    train: Train, outputs: Path, parent: Path, snapshot: Path
) -> None:
    elsewhere = outputs.parent / "elsewhere" / snapshot.name
    shutil.copytree(snapshot, elsewhere)
    shutil.rmtree(parent)
    typed = ("optimizer.lr=0.001", "run.id=mine", "trainer.max_steps=8", "tracker=tensorboard")
    train(f"resume={elsewhere / 'model' / 'checkpoint_step_6.pt'}", *typed)
    fork = outputs / "mine"
    said = config_of(fork)
    config = said["config"]
    assert (config["optimizer"]["lr"], config["trainer"]["max_steps"]) == (0.001, 8)
    assert config["trainer"]["log_interval"] == 2
    assert said["parent"]["run"] == "parent"
    assert [entry["step"] for entry in read_journal(fork / "logs" / "metrics.jsonl")] == [8]
    assert list(json.loads((fork / "logs" / "delivery.json").read_text())) == ["mine"]
    assert TensorBoardTracker().holds(run_info(fork)) == {8}
    shutil.rmtree(elsewhere)
    assert weights(fork, 6)


def run_info(run: Path) -> RunInfo:
    return RunInfo(id=run.name, dir=run, project="x", name="x", group=None, tags=(), notes=None, config={})


def test_the_overrides_are_those_of_its_time(outputs: Path, parent: Path, snapshot: Path) -> None:
    (parent / "config.json").write_text(json.dumps({**config_of(parent), "overrides": ["trainer.log_interval=3"]}))
    origin = find_origin(str(snapshot), outputs)
    assert origin is not None
    assert set(SMALL) < set(merge_overrides(origin, []))
    assert "run.id=parent" not in merge_overrides(origin, [])
    assert find_origin(f"parent/snapshots/{snapshot.name}", outputs) is not None


def plant(outputs: Path, name: str, like: Path, **more: Any) -> None:
    """Make an unfinished run of the same settings as `like`, of SLURM job 7."""
    (outputs / name).mkdir()
    (outputs / name / "config.json").write_text(json.dumps({**config_of(like), **more}))
    (outputs / name / "status.json").write_text(json.dumps({"state": "preempted", "slurm": {"job_id": "7"}}))


def test_a_job_that_is_requeued_goes_on_with_the_run_that_it_has_begun(
    outputs: Path, parent: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = config_of(parent)["overrides"]

    def begun() -> str | None:
        origin = find_origin(str(snapshot), outputs, None, overrides)
        assert origin is not None
        return None if origin.is_fork else origin.run.name

    plant(outputs, "other", parent, parent={"run": "parent", "snapshot": "another", "step": 6})
    plant(outputs, "fork", parent, parent={"run": "parent", "snapshot": snapshot.name, "step": 6})
    plant(outputs, "none", parent)
    assert begun() is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert begun() is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert begun() == "fork"
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert begun() is None


def test_auto_does_not_take_a_run_that_began_with_a_snapshot(outputs: Path, parent: Path, snapshot: Path) -> None:
    overrides = config_of(parent)["overrides"]
    plant(outputs, "fork", parent, parent={"run": "parent", "snapshot": snapshot.name, "step": 6})
    assert find_origin("auto", outputs, None, overrides) is None
    plant(outputs, "own", parent)
    os.utime(outputs / "own" / "status.json", (1, 1))
    origin = find_origin("auto", outputs, None, overrides)
    assert origin is not None
    assert origin.run.name == "own"


def test_a_new_run_that_was_stopped_at_once_goes_on_from_there(
    train: Train, outputs: Path, parent: Path, snapshot: Path
) -> None:
    train(f"resume={snapshot}", "trainer.max_steps=7", "run.id=fork")
    fork = outputs / "fork"
    (fork / "checkpoints" / "checkpoint_step_7.pt").unlink()  # killed before it saved anything
    train("resume=fork", "trainer.max_steps=12")
    assert journal(fork) == journal(parent, after=6)
    assert config_of(fork)["parent"]["step"] == 6
    assert len(forks(outputs)) == 1


def refused(train: Train, outputs: Path, snapshot: Path, *arguments: str) -> str:
    """What is said when `resume=snapshot` is refused: one line, and no directory is left behind."""
    done = train(f"resume={snapshot}", *arguments, check=False)
    assert done.returncode == 1
    assert forks(outputs) == []
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_damaged_one_is_refused(train: Train, outputs: Path, snapshot: Path) -> None:
    file = snapshot / "run_config.json"
    file.write_text(file.read_text().replace("0.003", "0.004"))
    assert "run_config.json was changed after it was written" in refused(train, outputs, snapshot)
    file.write_text("{")
    assert "run_config.json is not valid JSON" in refused(train, outputs, snapshot)


def test_one_without_a_checkpoint_is_refused(train: Train, outputs: Path, parent: Path) -> None:
    run = RunDir(parent)
    shutil.rmtree(run.checkpoints)
    bare = create(run, [Event("own", "own")], Observed(1, MOMENT), {})
    assert bare is not None
    assert "holds no checkpoint" in refused(train, outputs, bare)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def replace_checkpoint(snapshot: Path, value: Any) -> None:
    """Put something else in place of the checkpoint, with digests that are right."""
    file = snapshot / "model" / "checkpoint_step_6.pt"
    file.unlink()
    if isinstance(value, bytes):
        file.write_bytes(value)
    else:
        torch.save(value, file)
    metadata = json.loads((snapshot / "metadata.json").read_text())
    del metadata["sha256"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    metadata["files"]["model/checkpoint_step_6.pt"] = {"sha256": digest, "size": file.stat().st_size}
    (snapshot / "metadata.json").write_bytes(with_own_digest(metadata))


def test_nothing_in_it_is_executed(train: Train, outputs: Path, snapshot: Path) -> None:
    marker = outputs / "parent" / "executed"
    for value in ({"model_state_dict": Evil(marker)}, pickle.dumps(Evil(marker))):
        replace_checkpoint(snapshot, value)
        assert "is damaged: checkpoint_step_6.pt: " in refused(train, outputs, snapshot)
        assert not marker.exists()


def test_a_link_that_leads_out_is_refused(train: Train, outputs: Path, snapshot: Path, tmp_path: Path) -> None:
    file = snapshot / "model" / "checkpoint_step_6.pt"
    shutil.move(file, tmp_path / "elsewhere.pt")
    file.symlink_to(tmp_path / "elsewhere.pt")
    assert "is not in the snapshot itself" in refused(train, outputs, snapshot)


def test_another_model_is_refused(train: Train, outputs: Path, snapshot: Path) -> None:
    assert "encoder.bias was 8 and is 4" in refused(train, outputs, snapshot, "task.model.hidden=4")


def test_a_sweep_cannot_begin_with_it(train: Train, snapshot: Path) -> None:
    done = train("-m", f"resume={snapshot}", "optimizer.lr=0.1,0.2", check=False)
    assert done.returncode == 1
    assert "resume goes on with one run" in done.stderr
