"""CheckpointManager: what is saved comes back, what must be kept is kept, what cannot work is said at once."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import errno
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from expkit import CheckpointManager
from expkit.checkpoints import StateError, checkpoint_error, read_checkpoint
from expkit.errors import ResumeError, UserError


def make(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss = model(torch.ones(3, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def save(manager: CheckpointManager, *steps: int, **extra: object) -> Path | None:
    path = None
    for step in steps:
        path = manager.save_checkpoint(step, *make(step), [0.5], {"lr": 0.1}, **extra)
    return path


def steps(manager: CheckpointManager) -> list[int]:
    return [entry["step"] for entry in manager.list_checkpoints()]


def flip_a_bit(path: Path) -> None:
    """Change one weight, and none of the padding between the parts of the archive."""
    with zipfile.ZipFile(path) as archive:
        weights = archive.read(next(name for name in archive.namelist() if name.endswith("data/0")))
    data = bytearray(path.read_bytes())
    data[data.index(weights)] ^= 1
    path.write_bytes(data)


@pytest.fixture
def manager(tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path / "run", save_interval=10, keep_last_n=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run/checkpoints"


def assert_same(left: object, right: object) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        same_bits = left.contiguous().reshape(-1).view(torch.uint8), right.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(*same_bits)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for item, other in zip(left, right, strict=True):
            assert_same(item, other)
    else:
        assert left == right


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


# What is saved comes back


def test_everything_comes_back_bit_for_bit(manager, folder):
    model, optimizer = make()
    train_step(model, optimizer)
    shared = torch.arange(6.0)
    generator = np.random.default_rng(3)
    extra = {
        "scheduler_state_dict": torch.optim.lr_scheduler.StepLR(optimizer, 1).state_dict(),
        "rng_state": {
            "python": random.getstate(),
            "numpy": generator.bit_generator.state,
            "torch": torch.get_rng_state(),
        },
        "sampler_state": {"epoch": 3, "order": torch.randperm(10), 7: "a key that is no text"},
        "odd": [
            torch.tensor([float("nan"), -0.0, float("inf")]),
            torch.randn(3, 3).bfloat16(),
            torch.randn(2, dtype=torch.complex64),
            torch.empty(0, 5),
            shared.reshape(2, 3).T,
            nn.Parameter(torch.ones(2)),
            torch.float16,
            torch.device("cuda:1"),
            torch.Size([2, 3]),
            {1, 2},
            b"bytes",
            2**100,
            None,
        ],
    }
    manager.save_checkpoint(7, model, optimizer, [1.0, float("inf")], {"lr": 0.1}, **extra)
    checkpoint = CheckpointManager(folder.parent).load_latest_checkpoint()
    assert set(checkpoint) == {
        "model_state_dict", "optimizer_state_dict", "step", "loss_history", "config", "time", *extra,
    }  # fmt: skip
    assert_same(dict(checkpoint["model_state_dict"]), dict(model.state_dict()))
    assert_same(checkpoint["optimizer_state_dict"], optimizer.state_dict())
    assert checkpoint["loss_history"] == [1.0, float("inf")]
    for name, value in extra.items():
        assert_same(checkpoint[name], value)


def test_a_run_continued_from_restore_equals_one_never_stopped(manager):
    model, optimizer = make()
    train_step(model, optimizer)
    manager.save_checkpoint(1, model, optimizer, [], {})
    train_step(model, optimizer)

    resumed, resumed_optimizer = make(seed=1)
    assert manager.restore(resumed, resumed_optimizer) == 1
    train_step(resumed, resumed_optimizer)
    assert_same(dict(resumed.state_dict()), dict(model.state_dict()))
    assert_same(resumed_optimizer.state_dict(), optimizer.state_dict())


def in_ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


WRAPPERS = {
    "plain": lambda model: model,
    "data_parallel": nn.DataParallel,
    "ddp": in_ddp,
    "compile": torch.compile,
    "compile_of_ddp": lambda model: torch.compile(in_ddp(model)),
    "ddp_of_compile": lambda model: in_ddp(torch.compile(model)),
    "compiled_part": lambda model: nn.Sequential(torch.compile(model[0]), *model[1:]),
}


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("saved_in", WRAPPERS)
@pytest.mark.parametrize("loaded_into", WRAPPERS)
def test_wrappers_make_no_difference(manager, process_group, saved_in, loaded_into):
    model, optimizer = make(seed=1)
    manager.save_checkpoint(5, WRAPPERS[saved_in](model), optimizer, [], {})
    if saved_in != "compiled_part":
        assert list(manager.load_latest_checkpoint()["model_state_dict"]) == list(model.state_dict())
    other, other_optimizer = make(seed=2)
    assert manager.restore(WRAPPERS[loaded_into](other), other_optimizer) == 5
    assert_same(dict(other.state_dict()), dict(model.state_dict()))


def test_a_model_with_a_child_called_module_is_not_unwrapped(manager):
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.head = nn.Linear(2, 1)

    model = Holder()
    manager.save_checkpoint(5, model, torch.optim.SGD(model.parameters()), [], {})
    assert "head.weight" in manager.load_latest_checkpoint()["model_state_dict"]
    other = Holder()
    manager.restore(torch.compile(other))
    assert_same(dict(other.state_dict()), dict(model.state_dict()))


def test_a_checkpoint_of_another_model_is_refused_by_the_names_of_its_keys(manager):
    save(manager, 5)
    with pytest.raises(ResumeError, match="does not fit the model") as error:
        manager.restore(nn.Linear(4, 8))
    assert "0.weight" in str(error.value)
    with pytest.raises(ResumeError, match="does not fit the optimizer"):
        manager.restore(make()[0], torch.optim.SGD([torch.zeros(1)]))


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


# Finding a good one


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


# What cannot be saved is said before anything is written


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"loss_history": [0.5, np.float64(0.25)]}, r"loss_history\[1\] is numpy.float64"),
        ({"loss_history": np.zeros(3)}, "loss_history is numpy.ndarray"),
        ({"sampler_state": {"order": np.arange(3)}}, "extra.sampler_state.order is numpy.ndarray"),
        ({"rng_state": {"numpy": [np.random.get_state(legacy=True)]}}, r"extra.rng_state.numpy\[0\]\[1\] is numpy"),
        ({"detector_state": {"seen": defaultdict(list)}}, "extra.detector_state.seen is collections.defaultdict"),
        ({"journal_state": {"path": Path("x")}}, "extra.journal_state.path is pathlib"),
        ({"a": {Path("x"): 1}}, r"extra.a \(the key PosixPath\('x'\)\)"),
        ({"a": lambda: None}, "extra.a is function"),
        ({"a": OmegaConf.create({"b": 1})}, "extra.a is omegaconf"),
    ],
)
def test_a_value_that_could_not_be_loaded_is_refused_by_its_path(manager, folder, arguments, where):
    keywords = {"loss_history": [], "config": {}} | arguments
    with pytest.raises(StateError, match=where) as error:
        manager.save_checkpoint(1, *make(), **keywords)
    assert isinstance(error.value, TypeError)
    assert isinstance(error.value, UserError)
    assert not folder.exists()


def test_extra_state_in_a_model_is_checked_too(manager):
    class Stateful(nn.Linear):
        def get_extra_state(self) -> dict[str, object]:
            return {"seen": np.int64(3)}

    model = Stateful(1, 1)
    with pytest.raises(StateError, match=r"model_state_dict._extra_state.seen is numpy.int64"):
        manager.save_checkpoint(1, model, torch.optim.SGD(model.parameters()), [], {})


def test_names_of_the_checkpoint_itself_are_taken(manager):
    with pytest.raises(UserError, match="model_state_dict is a checkpoint's own"):
        save(manager, 1, model_state_dict={})


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Settings:
    where: Path
    colour: Colour = Colour.RED


def test_a_configuration_becomes_plain(manager, monkeypatch):
    monkeypatch.setenv("EXPKIT_TEST_KEY", "s3cr3t-value")
    config = {
        "settings": Settings(Path("data/x")),
        "arguments": argparse.Namespace(lr=np.float32(0.5), sizes=(1, 2)),
        "omegaconf": OmegaConf.create(
            {"a": 1, "b": "${.a}", "list": [1, {"c": None}], "key": "${oc.env:EXPKIT_TEST_KEY}", "later": "???"}
        ),
        "torch": [torch.device("cpu"), torch.bfloat16, torch.tensor([1, 2])],
        3: {2, 1},
    }
    path = manager.save_checkpoint(1, *make(), [], config)
    assert manager.load_latest_checkpoint()["config"] == {
        "settings": {"where": "data/x", "colour": "RED"},
        "arguments": {"lr": 0.5, "sizes": [1, 2]},
        "omegaconf": {
            "a": 1,
            "b": 1,
            "list": [1, {"c": None}],
            "key": "${oc.env:EXPKIT_TEST_KEY}",
            "later": "???",
        },
        "torch": ["cpu", "torch.bfloat16", [1, 2]],
        "3": [1, 2],
    }
    assert b"s3cr3t-value" not in path.read_bytes()


def test_a_whole_omegaconf_configuration(manager):
    manager.save_checkpoint(1, *make(), [], OmegaConf.create({"optimizer": {"lr": 0.1}, "layers": [1, 2]}))
    config = manager.load_latest_checkpoint()["config"]
    assert config == {"optimizer": {"lr": 0.1}, "layers": [1, 2]}
    assert type(config["layers"]) is list
    broken = OmegaConf.create({"a": "${nowhere}"})
    manager.save_checkpoint(2, *make(), [], broken)
    assert manager.load_latest_checkpoint()["config"] == {"a": "${nowhere}"}


def test_a_configuration_with_something_else_in_it_is_refused_by_its_path(manager):
    with pytest.raises(StateError, match=r"config.optimizer\[0\].fn is function"):
        manager.save_checkpoint(1, *make(), [], {"optimizer": [{"fn": lambda: None}]})


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
