"""CheckpointManager: what is saved comes back, what must be kept is kept, what cannot work is said at once."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from expkit import CheckpointManager
from expkit.checkpoints import checkpoint_error, read_checkpoint
from expkit.errors import UserError
from tests.expkit.checkpoints.small import assert_same, flip_a_bit, make, save, steps, train_step

REST = {"step": 1, "loss_history": [], "config": {}}

# The guide's examples


def test_the_guides_training_loop_and_resume(tmp_path, capsys):
    dirs = {"root": str(tmp_path)}
    config = {"lr": 0.001, "batch_size": 32}
    model, optimizer = make()
    loss_history = []

    checkpoint_mgr = CheckpointManager(experiment_dir=dirs["root"], save_interval=1000, keep_last_n=3)
    for step in range(0, 5001, 500):
        loss_history.append(train_step(model, optimizer))
        if checkpoint_mgr.should_checkpoint(step):
            checkpoint_path = checkpoint_mgr.save_checkpoint(
                step=step, model=model, optimizer=optimizer, loss_history=loss_history, config=config
            )
            print(f"Saved checkpoint: {checkpoint_path}")

    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {f"checkpoint_step_{step}.pt" for step in (3000, 4000, 5000)} | {"checkpoint_latest.pt"}
    for ckpt in checkpoint_mgr.list_checkpoints():
        print(f"Step {ckpt['step']}: {ckpt['size_mb']:.2f} MB, {ckpt['modified']}")
    assert capsys.readouterr().out.count("Step ") == 3

    trained, (model, optimizer) = model, make(seed=1)
    checkpoint_mgr = CheckpointManager(dirs["root"])
    checkpoint = checkpoint_mgr.load_latest_checkpoint()
    if checkpoint:
        model.load_state_dict(checkpoint["model_state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        start_step = checkpoint["step"] + 1
        assert checkpoint["loss_history"] == loss_history
    assert start_step == 5001
    assert checkpoint["config"] == config
    assert_same(dict(model.state_dict()), dict(trained.state_dict()))
    assert checkpoint_mgr.load_checkpoint(step=4000)["step"] == 4000


def test_import_of_expkit_is_light_and_a_manager_makes_no_folder(tmp_path):
    code = "import sys, expkit; assert 'torch' not in sys.modules; assert 'CheckpointManager' in dir(expkit)"
    subprocess.run([sys.executable, "-c", code], check=True)
    manager = CheckpointManager(tmp_path / "run")
    assert manager.load_latest_checkpoint() is None
    assert manager.restore(nn.Linear(1, 1)) is None
    assert manager.latest_path() is None
    assert manager.list_checkpoints() == []
    assert not (tmp_path / "run").exists()


# When, and how many


def test_nothing_is_due_at_zero(manager):
    assert [step for step in range(31) if manager.should_checkpoint(step)] == [10, 20, 30]


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
@pytest.mark.parametrize("name", ["save_interval", "keep_last_n", "verify_every"])
def test_intervals_that_cannot_work_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, not {value!r}"):
        CheckpointManager(tmp_path, **{name: value})


def test_a_step_is_a_whole_number(manager):
    assert save(manager, np.int64(3)).name == "checkpoint_step_3.pt"
    assert manager.load_latest_checkpoint()["step"] == 3
    with pytest.raises(UserError, match="step must be a whole number of at least 0, not -1"):
        save(manager, -1)


def test_the_last_n_stay_with_the_best_and_the_one_resumed_from(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last_n=2)
    save(manager, 1, 2)
    save(manager, 3, is_best=True)
    save(manager, 4, 5)
    assert steps(manager) == [3, 4, 5]

    manager = CheckpointManager(tmp_path, keep_last_n=2)
    assert manager.restore(*make()) == 5
    save(manager, 6, 7, 8)
    assert steps(manager) == [3, 5, 7, 8]
    assert manager.best_path().name == "checkpoint_step_3.pt"
    assert (tmp_path / "checkpoints/checkpoint_best.pt").resolve() == manager.best_path()

    save(manager, 9, is_best=True)
    manager.protect(8)
    save(manager, 10, 11, 12)
    assert steps(manager) == [8, 9, 11, 12]


def test_verifying_now_and_then_protects_nothing(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    for step in range(1, 5):
        save(manager, step)
        assert manager.load_latest_checkpoint()["step"] == step
    assert steps(manager) == [4]


def test_the_best_stays_the_best_when_its_step_is_saved_again(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    save(manager, 1, is_best=True)
    save(manager, 1, 2, 3)
    assert CheckpointManager(tmp_path).best_path().name == "checkpoint_step_1.pt"


def test_only_valid_checkpoints_count_and_the_last_valid_one_stays(tmp_path):
    manager = CheckpointManager(tmp_path, keep_last_n=2)
    save(manager, 1, 2)
    flip_a_bit(tmp_path / "checkpoints/checkpoint_step_2.pt")
    save(manager, 3)
    assert [(c["step"], c["valid"]) for c in manager.list_checkpoints()] == [(1, True), (2, False), (3, True)]
    save(manager, 4)
    assert steps(manager) == [3, 4]


def test_a_training_started_again_in_the_same_folder_keeps_its_own_checkpoints(tmp_path, caplog):
    save(CheckpointManager(tmp_path), 100, 200, 300)
    again = CheckpointManager(tmp_path, keep_last_n=1)
    save(again, 10, 20)
    assert steps(again) == [20, 100, 200, 300]
    assert caplog.text.count("checkpoints of later steps than 10 (up to 300)") == len(caplog.records) == 1
    assert (tmp_path / "checkpoints/checkpoint_latest.pt").resolve().name == "checkpoint_step_20.pt"


# The neighbourhood


def test_checksums_are_written_whatever_the_process_has_set(manager):
    torch.serialization.set_crc32_options(False)
    try:
        path = save(manager, 1)
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert manager.load_latest_checkpoint() is not None
    flip_a_bit(path)
    assert "checksum" in checkpoint_error(path)


def test_only_leftovers_of_dead_processes_are_removed(manager, folder):
    save(manager, 1)
    dead = subprocess.Popen(["true"])
    dead.wait()
    gone = [f".checkpoint_step_9.pt.{dead.pid}.0.tmp", f".checkpoint_step_9.pt.{os.getpid()}.0.tmp"]
    kept = [
        f".checkpoint_step_9.pt.{os.getppid()}.0.tmp",
        f".checkpoint_step_9.pt.{os.getpid()}.1.tmp",
        f".notes.{dead.pid}.0.tmp",
        "checkpoint_step_9.tmp",
    ]
    for name in gone + kept:
        (folder / name).touch()
    os.utime(folder / gone[1], (0, 0))  # of an earlier process with our pid, as in a container
    (folder / f".checkpoint_latest.pt.{dead.pid}.1.tmp").symlink_to("nowhere")
    save(manager, 2)
    left = {path.name for path in folder.iterdir() if path.name.endswith(".tmp")}
    assert left == set(kept)


def test_a_folder_that_cannot_be_made_is_no_reason_to_stop(tmp_path, caplog):
    (tmp_path / "checkpoints").write_text("a file is in the way")
    assert save(CheckpointManager(tmp_path), 1) is None
    assert "step 1 not saved" in caplog.text


def test_best_is_marked_inside_the_file(manager):
    path = save(manager, 1, is_best=True)
    assert read_checkpoint(path)["is_best"] is True
    assert "is_best" not in read_checkpoint(save(manager, 2))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, o, c: c.save_checkpoint(model=m.state_dict(), optimizer=o, **REST), "model is of type OrderedDict"),
        (
            lambda m, o, c: c.save_checkpoint(model=m, optimizer=[0.5], **REST),
            "optimizer is of type list: give the torch",
        ),
        (lambda m, o, c: c.restore(m.state_dict()), "model is of type OrderedDict: give the nn.Module itself"),
    ],
)
def test_what_is_no_model_or_optimizer_is_refused_in_one_line(manager, call, says):
    with pytest.raises(UserError, match=says):
        call(*make(), manager)
