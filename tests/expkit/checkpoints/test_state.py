"""What is saved comes back bit for bit, whatever it is wrapped in; what could not be loaded is refused by its path."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from expkit import CheckpointManager
from expkit.checkpoints import StateError
from expkit.errors import ResumeError, UserError
from tests.expkit.checkpoints.small import assert_same, make, save, train_step

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
