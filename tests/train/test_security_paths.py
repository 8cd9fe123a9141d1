"""No name, setting or link leads out of the folder of runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import expkit.cli.main
from expkit import create_experiment_directory
from expkit.checkpoints import CheckpointManager
from expkit.errors import UserError
from tests.conftest import Train
from tests.train.test_security import SMALL, finished, run
from train.api import load_results
from train.cli.main import main

__all__ = ["finished", "run"]  # fixtures


@pytest.mark.parametrize("name", ["../escaped", "..", "/tmp/expkit-escaped", ""])
def test_an_id_is_the_name_of_a_folder_and_nothing_else(train: Train, outputs: Path, name: str) -> None:
    for resume in ("never", "auto") if name == "../escaped" else ("never",):
        done = train(f"run.id='{name}'", f"resume={resume}", *SMALL, "tracker=[]", "plots=[]", check=False)
        assert done.returncode == 1, done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith(f"error: run.id={name}: it becomes a folder's name")
    assert not outputs.exists()
    assert not (outputs.parent / "escaped").exists()


@pytest.mark.parametrize("name", ["../escaped", "..", ".", "a/b", "/tmp/expkit-escaped", "a/../../escaped", ""])
def test_an_id_in_ones_own_loop_is_the_name_of_a_folder_too(tmp_path: Path, name: str) -> None:
    for exist_ok in (False, True):
        with pytest.raises(UserError, match="it must be the name of a folder"):
            create_experiment_directory(tmp_path / "runs", name, exist_ok)
    assert list(tmp_path.iterdir()) == []
    assert not Path("/tmp/expkit-escaped").exists()


def test_a_name_or_a_group_cannot_lead_out_of_the_folder_of_runs(train: Train, outputs: Path) -> None:
    before = set(outputs.parent.iterdir())
    names = [f"{key}='../../escaped'" for key in ("run.name", "run.group", "run.variant")]
    done = train(*names, *SMALL, "trainer.max_steps=1", "tracker=[tensorboard]", "plots=[]")
    assert done.returncode == 0
    assert len(list(outputs.iterdir())) == 1
    assert set(outputs.parent.iterdir()) - before == {outputs}
    assert not list(outputs.parent.parent.glob("escaped*"))


def test_results_and_runs_are_looked_up_inside_of_the_folder_of_runs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inner" / "outputs").mkdir(parents=True)
    shutil.copytree(run, tmp_path / "inner" / "private", symlinks=True)
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(UserError, match="there is no run called"):
        load_results("../private")
    with pytest.raises(UserError, match="there is no run called"):
        load_results("../../x")
    assert expkit.cli.main.main(["show", "../private"]) == 1
    assert main(["train", "resume=../private"]) == 1
    said = capfd.readouterr().err
    assert "error: ../private is no run" in said
    assert "error: resume=../private: no run there" in said


def test_what_config_json_says_of_its_place_is_not_believed(
    train: Train, run: Path, outputs: Path, tmp_path: Path
) -> None:
    file = run / "config.json"
    config = json.loads(file.read_text())
    config["experiment_id"] = "../../etc"
    for key in ("id", "outputs", "dir", "group", "name"):
        config["config"]["run"][key] = "../../etc"
    config["overrides"] += ["run.id=../../etc"]
    file.write_text(json.dumps(config))
    before = set(tmp_path.iterdir())
    done = train(f"resume={run}", "trainer.max_epochs=3", "plots=[]", "tracker=[tensorboard]", check=False)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 46" in done.stderr
    assert [path.name for path in outputs.iterdir()] == ["mine"]
    assert set(tmp_path.iterdir()) == before
    assert json.loads(file.read_text())["config"]["run"]["id"] == "mine"


def test_retention_deletes_links_and_never_what_they_point_at(run: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious.pt"
    manager = CheckpointManager(run, keep_last_n=1)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    elsewhere = CheckpointManager(tmp_path / "elsewhere").save_checkpoint(5, model, optimizer, [], {})
    assert elsewhere is not None
    shutil.copy(elsewhere, precious)
    link = run / "checkpoints" / "checkpoint_step_5.pt"
    link.symlink_to(precious)
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").touch()
    (run / "checkpoints" / "checkpoint_step_6.pt").symlink_to(folder)
    for step in (100, 101):
        manager.save_checkpoint(step, model, optimizer, [], {})
    assert not os.path.lexists(link)
    assert precious.exists()
    assert (folder / "file").exists()


def test_a_checkpoint_that_is_a_link_to_elsewhere_is_written_beside_and_set_aside_as_a_link(
    run: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"not mine")
    for name in ("checkpoint_step_200.pt", "checkpoint_step_300.pt"):
        (run / "checkpoints" / name).symlink_to(elsewhere)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    assert CheckpointManager(run).save_checkpoint(200, model, optimizer, [], {}) is not None
    CheckpointManager(run).load_latest_checkpoint()
    assert elsewhere.read_bytes() == b"not mine"
