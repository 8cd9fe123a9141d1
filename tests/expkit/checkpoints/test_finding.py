"""The newest checkpoint that is good is found; what is damaged, misnamed or a link is passed over, and said."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
import torch
from torch import nn

from expkit import CheckpointManager
from expkit.checkpoints import checkpoint_error
from tests.expkit.checkpoints.small import flip_a_bit, save, steps


def test_a_damaged_checkpoint_is_said_set_aside_and_passed_over(manager, caplog):
    save(manager, 1)
    newest = save(manager, 2)
    for number in range(2):
        save(manager, 2)
        flip_a_bit(newest)
        assert not manager.verify_checkpoint(newest)
        assert manager.latest_path().name == "checkpoint_step_1.pt"
        assert newest.exists()  # looking changes nothing
        caplog.clear()
        assert manager.load_latest_checkpoint()["step"] == 1
        (warning,) = caplog.messages
        assert str(newest) in warning
        assert "checksum" in warning
        assert "checkpoint_step_2.pt.corrupt" in warning
        assert len(list(newest.parent.glob("*.corrupt*"))) == number + 1
    assert manager.load_checkpoint(2) is None
    assert "there are: 1" in caplog.text


def test_when_none_can_be_loaded_it_is_said(manager, caplog):
    flip_a_bit(save(manager, 1))
    assert manager.load_latest_checkpoint() is None
    assert "none of the 1 checkpoints" in caplog.text


def test_what_cannot_be_read_is_not_called_corrupt(manager, folder, caplog):
    save(manager, 1)
    (folder / "checkpoint_step_2.pt").mkdir()  # gives an OSError, like a missing permission
    assert manager.load_latest_checkpoint()["step"] == 1
    assert "cannot be read" in caplog.text
    assert not list(folder.glob("*.corrupt"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"weight": torch.ones(1)}, "lacks model_state_dict"),
        ([1, 2], "holds a list"),
        (nn.Linear(1, 1), "may run code"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(manager, content, reason):
    path = save(manager, 1)
    torch.save(content, path)
    assert reason in checkpoint_error(path)
    assert manager.load_latest_checkpoint() is None


def test_a_name_that_lies_about_the_step_is_refused(manager):
    path = save(manager, 1)
    shutil.copy(path, path.with_name("checkpoint_step_9.pt"))
    assert manager.load_latest_checkpoint()["step"] == 1
    assert path.with_name("checkpoint_step_9.pt.corrupt").exists()


def test_links_are_never_believed(manager, folder):
    save(manager, 1, 2)
    for name in ("checkpoint_latest.pt", "checkpoint_best.pt"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/etc/passwd")
    assert manager.load_latest_checkpoint()["step"] == 2
    assert manager.best_path() is None


def test_a_moved_run_directory_still_works(manager, tmp_path):
    save(manager, 1, is_best=True)
    save(manager, 2)
    moved = tmp_path / "elsewhere"
    (tmp_path / "run").rename(moved)
    assert (moved / "checkpoints/checkpoint_latest.pt").samefile(moved / "checkpoints/checkpoint_step_2.pt")
    assert CheckpointManager(moved).load_latest_checkpoint()["step"] == 2
    assert CheckpointManager(moved).best_path() == moved / "checkpoints/checkpoint_step_1.pt"


def test_without_symlinks_everything_else_works(tmp_path, monkeypatch, caplog):
    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    manager = CheckpointManager(tmp_path, keep_last_n=1)
    save(manager, 1, is_best=True)
    save(manager, 2, 3)
    assert len(caplog.records) == 1
    assert "link" in caplog.text
    again = CheckpointManager(tmp_path, keep_last_n=1)
    save(again, 4)
    assert steps(again) == [1, 4]
    assert again.best_path().name == "checkpoint_step_1.pt"


def test_a_real_file_in_the_place_of_a_link_is_left_alone(manager, folder, caplog):
    save(manager, 1)
    (folder / "checkpoint_latest.pt").unlink()
    (folder / "checkpoint_latest.pt").write_bytes(b"somebody's copy")
    assert save(manager, 2) is not None
    assert (folder / "checkpoint_latest.pt").read_bytes() == b"somebody's copy"
    assert "left alone" in caplog.text
