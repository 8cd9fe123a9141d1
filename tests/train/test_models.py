"""The models of the task `classify`, and the trial that a model has to pass before it is trained."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from expkit.errors import ConfigError
from train.models.cnn import CNN
from train.models.mlp import MLP
from train.models.two_layer_net import TwoLayerNet
from train.tasks.base import build_fitting

functional = nn.functional


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in model.parameters()]


def test_an_mlp_is_linear_layers_with_relu_between_them() -> None:
    torch.manual_seed(0)
    model = MLP(inputs=6, classes=3, hidden=[5, 4])
    x = torch.randn(7, 2, 3)
    w1, b1, w2, b2, w3, b3 = model.parameters()
    hidden = ((x.flatten(1) @ w1.T + b1).clamp(min=0) @ w2.T + b2).clamp(min=0)
    torch.testing.assert_close(model(x), hidden @ w3.T + b3)


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        (16, [(16, 64), (16,), (10, 16), (10,)]),
        ([8, 4], [(8, 64), (8,), (4, 8), (4,), (10, 4), (10,)]),
        ([], [(10, 64), (10,)]),
    ],
)
def test_the_widths_of_an_mlp_are_those_configured(hidden: Any, expected: list[tuple[int, ...]]) -> None:
    assert shapes(MLP(64, 10, hidden)) == expected


def test_a_cnn_is_convolutions_each_with_relu_and_pooling_and_a_linear_layer() -> None:
    torch.manual_seed(0)
    model = CNN(shape=(1, 8, 8), classes=10, channels=[3, 5])
    w1, b1, w2, b2, w3, b3 = model.parameters()
    assert shapes(model) == [(3, 1, 3, 3), (3,), (5, 3, 3, 3), (5,), (10, 20), (10,)]
    x = torch.randn(4, 1, 8, 8)
    features = functional.max_pool2d(functional.conv2d(x, w1, b1, padding=1).clamp(min=0), 2)
    features = functional.max_pool2d(functional.conv2d(features, w2, b2, padding=1).clamp(min=0), 2)
    torch.testing.assert_close(model(x), features.flatten(1) @ w3.T + b3)


@pytest.mark.parametrize(
    ("shape", "channels"), [((1, 8, 8), 4), ((1, 8, 8), [2, 3, 4]), ((3, 28, 28), [4, 8]), ((2, 9, 4), [2, 2])]
)
def test_a_cnn_takes_images_of_any_shape(shape: tuple[int, ...], channels: Any) -> None:
    assert CNN(shape, 10, channels)(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("make", [functools.partial(MLP, 64, hidden=32), functools.partial(CNN, (1, 8, 8))])
def test_dropout_acts_in_training_only(make: Any) -> None:
    torch.manual_seed(0)
    model = make(classes=10, dropout=0.5)
    x = torch.rand(3, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(64, 10, hidden=0), r"task\.model\.hidden=0: whole numbers of at least 1"),
        (lambda: MLP(64, 10, hidden=[32, -1]), r"task\.model\.hidden=\[32, -1\]"),
        (lambda: MLP(64, 10, hidden=2.5), r"task\.model\.hidden=2\.5"),  # type: ignore[arg-type]
        (lambda: MLP(64, 10, hidden="wide"), r"task\.model\.hidden=wide"),  # type: ignore[arg-type]
        (lambda: MLP(64, 10, dropout=1.0), r"task\.model\.dropout=1\.0: a probability"),
        (lambda: CNN((1, 8, 8), 10, dropout=-0.1), r"task\.model\.dropout=-0\.1"),
        (lambda: CNN((1, 8, 8), 10, dropout="some"), r"task\.model\.dropout=some"),  # type: ignore[arg-type]
        (lambda: CNN((1, 8, 8), 10, channels=[8, True]), r"task\.model\.channels=\[8, True\]"),
        (lambda: CNN((1, 8, 8), 10, channels=[2, 2, 2, 2]), r"task\.model\.channels=.* 8 x 8 pixels: at most 3"),
    ],
)
def test_bad_values_are_named(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# --- the trial -----------------------------------------------------------------------------------------------------


def fitting(model: Any, **known: Any) -> nn.Module:
    return build_fitting("classify", model, torch.zeros(2, 1, 8, 8), (2, 10), "task/model=cnn or mlp", **known)


def test_a_model_is_given_what_it_has_a_parameter_for_and_no_value() -> None:
    known = {"inputs": 64, "shape": (1, 8, 8), "classes": 7}
    assert shapes(fitting(functools.partial(MLP, hidden=3, classes=10), **known)) == [(3, 64), (3,), (10, 3), (10,)]
    assert shapes(fitting(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), **known)) == [(10, 64), (10,)]


def test_the_trial_leaves_no_trace() -> None:
    """No random number is drawn, no running mean updated, no gradient kept, and the model trains afterwards."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.BatchNorm1d(64), nn.Linear(64, 10))

    torch.manual_seed(0)
    untried = model()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    tried = fitting(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, untried.state_dict()[name]) for name, value in tried.state_dict().items())
    assert all(module.training for module in tried.modules())
    assert all(parameter.grad is None for parameter in tried.parameters())


def test_a_model_with_another_output_is_refused_with_its_name_and_both_shapes() -> None:
    with pytest.raises(ConfigError) as error:
        fitting(functools.partial(MLP, 64, 7))
    assert str(error.value) == (
        "task.model: MLP does not fit task=classify: choose task/model=cnn or mlp "
        "(it maps (2, 1, 8, 8) to (2, 7), not to (2, 10))"
    )


def broken() -> nn.Module:
    raise KeyError("a")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (functools.partial(TwoLayerNet, hidden=4), r"TwoLayerNet does not fit .* \(TypeError: .* argument: 'd'\)"),
        (functools.partial(MLP, 32, 10), r"MLP does not fit .* \(RuntimeError: .*shapes cannot be multiplied"),
        (functools.partial(nn.LSTM, 8, 10), "LSTM does not fit"),
        (broken, r"broken does not fit .* \(KeyError: 'a'\)"),
    ],
)
def test_a_model_that_cannot_be_built_or_run_is_refused_in_one_line(model: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as error:
        fitting(model)
    assert "\n" not in str(error.value)


def test_a_mistake_that_the_model_names_itself_is_left_as_it_is() -> None:
    with pytest.raises(ConfigError, match=r"^task\.model\.hidden=0: "):
        fitting(functools.partial(MLP, 64, 10, hidden=0))
