"""What the svd diagnostic makes of odd weights, models and arguments."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch import nn

from expkit.diagnostics.svd import SVDDiagnostic
from expkit.errors import ConfigError
from tests.expkit.diagnostics.svd_driver import (
    KNOWN,
    OF_GRADIENT,
    OF_WEIGHT,
    Training,
    analyse,
    digits_network,
    gpt,
    layer,
    layers_of,
    of_layer,
    randomised,
)


@pytest.mark.parametrize("method", ["subspace", "full"])
@pytest.mark.parametrize("shape", [(40, 40), (96, 130)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_broken_weights_are_nan_and_forgotten(bad: float, shape: tuple[int, int], method: str) -> None:
    diagnostic, model = SVDDiagnostic(method=method), randomised(nn.Linear(*shape))
    good = analyse(diagnostic, model)
    broken = copy.deepcopy(model)
    broken.weight.data[3, 5] = bad
    broken.weight.grad = model.weight.grad
    found = analyse(diagnostic, broken)
    assert all(math.isnan(found[name]) for name in OF_GRADIENT | OF_WEIGHT)
    assert found["r"] == good["r"]
    assert repr(analyse(diagnostic, model)) == repr(good), "it did not begin afresh"
    assert analyse(diagnostic, model)["subspace_angle"] < 1e-3


@pytest.mark.parametrize("shape", [(40, 40), (96, 130)])
def test_weights_whose_squares_overflow_are_nan_or_right(shape: tuple[int, int]) -> None:
    diagnostic, model = SVDDiagnostic(), randomised(nn.Linear(*shape))
    good = analyse(diagnostic, model)
    huge = copy.deepcopy(model)
    huge.weight.data[3, 5] = 1e30
    error = analyse(diagnostic, huge)["reconstruction_error"]
    assert math.isnan(error) or error < 1e-6
    analyse(diagnostic, model)
    assert analyse(diagnostic, model)["reconstruction_error"] == pytest.approx(good["reconstruction_error"], abs=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_gradient_costs_the_alignments_only(bad: float) -> None:
    diagnostic, model = SVDDiagnostic(), randomised(nn.Linear(96, 130))
    analyse(diagnostic, model)
    model.weight.grad[3, 5] = bad  # type: ignore[index]
    found = analyse(diagnostic, model)
    assert {name for name, value in found.items() if math.isnan(value)} == OF_GRADIENT


def test_a_zero_gradient_has_no_direction() -> None:
    model = randomised(nn.Linear(20, 30))
    model.weight.grad = torch.zeros(30, 20)
    found = analyse(SVDDiagnostic(), model)
    assert all(math.isnan(found[name]) for name in OF_GRADIENT)
    assert math.isfinite(found["reconstruction_error"])


def test_zero_weights_have_no_directions() -> None:
    found = analyse(SVDDiagnostic(), layer(torch.zeros(20, 30), torch.ones(20, 30)))
    assert all(math.isnan(found[name]) for name in OF_GRADIENT | OF_WEIGHT)


def test_frozen_layers_have_no_alignments() -> None:
    training = Training(digits_network(32))
    for parameter in training.model[2].parameters():  # type: ignore[index]
        parameter.requires_grad_(False)
    ((measured,),) = training.run(3, [SVDDiagnostic()], 3)
    assert of_layer(measured, "2").keys() == OF_WEIGHT | KNOWN
    assert of_layer(measured, "0").keys() == OF_GRADIENT | OF_WEIGHT | KNOWN


def test_a_layer_may_say_its_mode() -> None:
    model = randomised(nn.Linear(20, 30))
    model.svd_mode = 1.0  # type: ignore[assignment]
    assert analyse(SVDDiagnostic(), model)["mode"] == 1.0


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("block0.attn.*", ["c_q", "c_k", "c_v", "c_proj"]),
        ("block0.attn.c_[qk]", ["c_q", "c_k"]),
        (" block0.attn.c_q , block0.attn.c_v", ["c_q", "c_v"]),
        (["block0.attn.c_q", "block0.attn.c_?"], ["c_q", "c_k", "c_v"]),
    ],
)
def test_patterns_choose_layers(patterns: str | list[str], expected: list[str]) -> None:
    diagnostic, model = SVDDiagnostic(layers=patterns), gpt()
    diagnostic.check(model)
    assert layers_of(diagnostic.measure(model)) == {f"block0.attn.{name}" for name in expected}


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        (gpt(), {"layers": "blok*"}, ["layers=blok*", "block0.attn.c_q, ", "block1.mlp.c_proj"]),
        (gpt(), {"layers": "block0.*,head"}, ["layers=head"]),
        (nn.Sequential(*(nn.Linear(3, 3) for _ in range(50))), {"layers": "x"}, ["0, 1, 2", "19 and 30 more"]),
        (nn.Conv1d(2, 3, 1), {}, ["no nn.Linear layer in Conv1d"]),
        (nn.Linear(7, 1), {}, ["one singular value"]),
    ],
)
def test_a_model_without_such_layers_is_one_clear_line(
    model: nn.Module, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        SVDDiagnostic(**arguments).check(model)
    assert all(word in str(caught.value) for word in ["diagnostics.svd.layers", *words])
    assert "\n" not in str(caught.value)


def test_single_rows_are_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    diagnostic, model = SVDDiagnostic(), randomised(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)))
    with caplog.at_level(logging.WARNING):
        diagnostic.check(model)
    assert "without 1:" in caplog.text
    assert layers_of(diagnostic.measure(model)) == {"0"}


@pytest.mark.parametrize(
    "arguments",
    [{"method": "svd"}, {"rank": 0}, {"oversampling": -1}, {"refresh": 0}, {"layers": ""}, {"layers": []}],
)
def test_impossible_arguments_name_their_key(arguments: dict[str, Any]) -> None:
    (key,) = arguments
    with pytest.raises(ConfigError, match=rf"diagnostics\.svd\.{key}="):
        SVDDiagnostic(**arguments)
