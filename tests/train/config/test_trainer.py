"""The trainer and run sections: every value that cannot work is refused, by name."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from expkit.errors import ConfigError
from train.config.build import CONF_DIR
from train.config.trainer import TrainerConfig, check_run

BAD: dict[str, list[Any]] = {
    "max_epochs": [0, -1, 1.5, "ten", True],
    "max_steps": [0, -3, 2.0, "many", False],
    "batch_size": [0, -8, 4.0, "64", None, True],
    "grad_accumulation": [0, -1, 1.5, None],
    "clip_grad_norm": [0, -1.0, math.nan, "one", True],
    "log_interval": [0, -5, 2.5, "epoch", None],
    "eval_interval": [0, -5, 2.5, "auto", None],
    "precision": ["16", "tf32", "", None],
    "compile": ["yes", 1, None],
    "deterministic": ["no", 0, None],
    "drop_last": [1, None],
    "seed": [-1, 1.5, None, "0", 2**64],
    "num_workers": [-1, 0.5, None],
    "threads": [0, -1, 1.5, "two", True],
    "processes": [0, -1, 1.5, "two", True],
    "strategy": ["dp", "", None, "DDP"],
    "timeout": [0, -1, "soon", 0.5],
    "find_unused_parameters": ["yes", 1, None],
    "fsdp_blocks": ["Block", [1]],
    "diagnostics_budget": [0, -0.1, 1, 1.5, math.nan, "5 %", True],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^trainer\.{key}=('?){re.escape(str(value))}\1: "):
        TrainerConfig.from_mapping({key: value})


def test_every_key_is_checked() -> None:
    """A new key has to come with its bad values here; `device` is checked when it is needed."""
    assert {field.name for field in dataclasses.fields(TrainerConfig)} == {*BAD, "device"}


@pytest.mark.parametrize("value", ["tpu", "cuda:99", "cpu:1", "mps:7", "meta", None, 1.5, True, ""])
def test_a_device_that_is_not_there_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.device="):
        TrainerConfig(device=value).torch_device()


def test_a_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainerConfig(device="cpu").torch_device() == torch.device("cpu")
    assert TrainerConfig(device="cpu:0").torch_device().type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert TrainerConfig().torch_device() == torch.device("cuda")
    assert TrainerConfig(device="cuda:1").torch_device() == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="this machine has 2 such devices;"):
        TrainerConfig(device="cuda:2").torch_device()


@pytest.mark.parametrize(
    ("key", "close"),
    [
        ("batchsize", "batch_size"),
        ("evalinterval", "eval_interval"),
        ("epochs", "max_epochs"),
        ("precison", "precision"),
    ],
)
def test_an_unknown_key_suggests_the_close_one(key: str, close: str) -> None:
    with pytest.raises(ConfigError, match=rf"there is no trainer\.{key}: did you mean trainer\.{close}\?"):
        TrainerConfig.from_mapping({key: 1})


def test_an_unknown_key_like_no_other_lists_them_all() -> None:
    with pytest.raises(ConfigError, match=r"there is no trainer\.xyz: trainer has max_epochs, .*, diagnostics_budget"):
        TrainerConfig.from_mapping({"xyz": 1})


def test_a_run_needs_an_end() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs and trainer\.max_steps are both null"):
        TrainerConfig(max_epochs=None, max_steps=None)
    assert TrainerConfig(max_epochs=None, max_steps=1).max_steps == 1


def test_what_can_be_said_in_words_says_so() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.log_interval=often: .*, or auto$"):
        TrainerConfig(log_interval="often")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"trainer\.eval_interval=0: .*, or epoch$"):
        TrainerConfig(eval_interval=0)


@pytest.mark.parametrize("value", [32, "32", "bf16", "fp16"])
def test_precision_may_be_a_number_in_yaml(value: Any) -> None:
    assert TrainerConfig.from_mapping({"precision": value}).precision == str(value)


@pytest.mark.parametrize("value", [1, 0.5, math.inf])
def test_a_norm_may_be_any_positive_number(value: float) -> None:
    """Infinity logs the norm and clips nothing."""
    assert TrainerConfig(clip_grad_norm=value).clip_grad_norm == value


def test_the_shipped_configuration_is_valid_and_has_every_key() -> None:
    shipped = OmegaConf.load(CONF_DIR / "config.yaml").trainer
    made = TrainerConfig.from_mapping(OmegaConf.to_container(shipped))  # type: ignore[arg-type]
    assert set(shipped) == {field.name for field in dataclasses.fields(TrainerConfig)}
    assert made.batch_size == shipped.batch_size


RUN_BAD: dict[str, list[Any]] = {
    "project": [None, "", 5],
    "name": [None, "", 2026, ["a"]],
    "outputs": [None, "", 1.5],
    "variant": [7, ["a"]],
    "group": [7],
    "notes": [True, {"a": 1}],
    "tags": [None, "abc", 5, [["a"]], {"a": 1}],
    "min_free_gb": [None, "lots", -1, True],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in RUN_BAD.items() for value in values])
def test_a_bad_value_of_the_run_section_is_refused_by_name(key: str, value: Any) -> None:
    section = OmegaConf.merge(OmegaConf.load(CONF_DIR / "config.yaml").run, {"name": "x"})
    check_run(section)
    section[key] = value
    with pytest.raises(ConfigError, match=rf"^run\.{key}="):
        check_run(section)


def test_a_section_is_not_a_value() -> None:
    with pytest.raises(ConfigError, match=r"^run=5: this is a whole section"):
        check_run(5)
