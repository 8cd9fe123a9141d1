"""A record is made once: values become plain numbers, and what is no number is refused by name."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from expkit.record import RESERVED, make_record, to_number, to_plain


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3),
        (0.5, 0.5),
        (True, 1),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), 1),
        (np.array([[0.5]]), 0.5),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([0.5], dtype=torch.bfloat16), 0.5),
        (torch.tensor(3), 3),
        (torch.tensor(0.5, requires_grad=True), 0.5),
        (2**70, 2.0**70),
        (-(2**63), -(2.0**63)),
    ],
)
def test_numbers_of_every_kind_become_plain(value: object, number: float) -> None:
    made = to_number("loss", value)
    assert made == number
    assert type(made) in (int, float)


@pytest.mark.parametrize("value", [math.nan, torch.tensor(math.nan), np.float32("nan")])
def test_nan_is_a_number(value: object) -> None:
    assert math.isnan(to_number("loss", value))


@pytest.mark.parametrize("value", [torch.zeros(2, 3), np.zeros((2, 3))])
def test_a_shape_error_names_the_metric_and_the_shape(value: object) -> None:
    with pytest.raises(TypeError, match=r"metric 'grad' has shape \(2, 3\).*reduce it first"):
        make_record(1, {"loss": 1.0, "grad": value})


@pytest.mark.parametrize("value", ["0.5", None, [1.0], {"a": 1}, 1j, torch.tensor(1j)])
def test_what_is_no_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(TypeError, match="metric 'loss' is"):
        make_record(1, {"loss": value})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_names_that_lines_use_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"a metric cannot be called '{name}'"):
        make_record(1, {name: 1.0})


def test_a_record_is_never_changed() -> None:
    metrics = {"loss": 1.0}
    record = make_record(1, metrics)
    metrics["loss"] = 2.0
    assert record.metrics == {"loss": 1.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.step = 2


def test_structured_values_become_plain() -> None:
    value = {
        1: torch.tensor([[1, 2]]),
        "array": np.array([0.5, math.inf]),
        "scalar": np.float32(0.5),
        "flag": np.bool_(False),
        "path": Path("a/b"),
        "set": {1},
        "none": None,
    }
    assert to_plain(value) == {
        "1": [[1, 2]],
        "array": [0.5, math.inf],
        "scalar": 0.5,
        "flag": False,
        "path": "a/b",
        "set": [1],
        "none": None,
    }


def test_integers_that_json_writers_refuse_become_texts() -> None:
    assert to_plain([2**64 - 1, -(2**63), 2**64]) == [2**64 - 1, -(2**63), str(2**64)]


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no plain JSON form"):
        to_plain({"a": [object()]})
