"""The activations diagnostic: sizes, dead units and saturation of what a model computes on a probe."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expkit.diagnostics.activations import ActivationsDiagnostic


class Apply(nn.Module):
    """Applies a function, and no weight."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def measured(model: nn.Module, x: Tensor, **options: Any) -> dict[str, float]:
    diagnostic = ActivationsDiagnostic(**options)
    diagnostic.use_probe(lambda model: model(x))
    return diagnostic.measure(model)


def applied(function: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, float]:
    """Measure one function without the rest of a model; the summary, which says the same, is left out."""
    found = measured(Apply(function), x)
    return {name.split("/")[-1]: value for name, value in found.items() if "/" in name}


# --- sizes ---------------------------------------------------------------------------------------------------------


def test_the_rms_of_each_layer_and_activation_is_that_of_its_output() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    x = torch.randn(7, 1, 6, 6)
    found = measured(model, x)
    model.eval()
    outputs = [x]
    for module in model:
        outputs.append(module(outputs[-1]).detach())
    expected = {name: output.square().mean().sqrt() for name, output in zip("01234", outputs[1:], strict=True)}
    assert {name.split("/")[0] for name in found if "/" in name} == {"0", "1", "2.relu", "4"}
    for name, rms in ("0", "0"), ("1", "1"), ("2.relu", "2"), ("4", "4"):
        assert found[f"{name}/rms"] == pytest.approx(float(expected[rms]), rel=1e-5)


def test_the_rms_of_many_values_is_exact() -> None:
    model = nn.Embedding(1, 200)
    nn.init.constant_(model.weight, 0.1)
    found = measured(model, torch.zeros(50_000, dtype=torch.int64))
    assert found["Embedding/rms"] == pytest.approx(0.1, rel=1e-5)


def test_a_model_of_the_bundled_kind_has_these_names() -> None:
    from train.models.gpt import GPT

    found = measured(GPT(11, 8, d_model=12, num_layers=1, num_heads=3), torch.randint(11, (4, 8)))
    layers = "token_embedding block0.norm1 block0.attn.c_q block0.attn.c_k block0.attn.c_v block0.attn.c_proj"
    layers += " block0.norm2 block0.mlp.c_fc block0.mlp.c_proj norm block0.mlp.gelu"
    assert set(found) == {"dead_share", "block0.mlp.gelu/dead_share", *(f"{name}/rms" for name in layers.split())}


# --- which activations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.tanh, "tanh"),
        (Tensor.tanh, "tanh"),
        (lambda x: torch.tanh(input=x), "tanh"),
        (lambda x: x.clone().tanh_(), "tanh"),
        (torch.sigmoid, "sigmoid"),
        (torch.special.expit, "sigmoid"),
        (F.relu, "relu"),
        (lambda x: F.relu(x.clone(), inplace=True), "relu"),
        (torch.relu_, "relu"),
        (F.gelu, "gelu"),
        (F.silu, "silu"),
        (F.glu, "glu"),
        (F.leaky_relu, "leaky_relu"),
        (F.softplus, "softplus"),
        (F.logsigmoid, "logsigmoid"),
        (nn.ReLU(), "function.relu"),
        (nn.Tanh(), "function.tanh"),
        (nn.GELU("tanh"), "function.gelu"),
        (nn.SiLU(inplace=True), "function.silu"),
        (nn.ReLU6(), "function.hardtanh"),
        (nn.Hardswish(), "function.hardswish"),
        (nn.PReLU(), "function.prelu"),
    ],
)
def test_an_activation_is_found_however_it_is_applied(function: Any, name: str) -> None:
    found = measured(Apply(function), torch.randn(5, 4))
    assert {metric.split("/")[0] for metric in found if metric.endswith("dead_share") and "/" in metric} == {name}


class Twice(nn.Module):
    """One nn.ReLU in two places, a function twice, and a number kept positive."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 6)
        self.relu = nn.ReLU()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.fc2(self.relu(self.fc1(x))))
        return torch.tanh(x) * torch.tanh(-x) * F.softplus(self.scale)


def test_repeated_activations_are_numbered_and_functions_of_parameters_are_none() -> None:
    found = measured(Twice(), torch.randn(5, 4))
    names = {metric.split("/")[0] for metric in found if "/" in metric}
    assert names == {"Twice", "fc1", "fc2", "relu.relu", "relu.relu2", "tanh", "tanh2"}


class Cell(nn.Module):
    """A recurrent cell, called at every time step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layer(x)) * torch.sigmoid(x)


class Unrolled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(20):
            x = self.cell(x)
        return x


def test_a_cell_that_is_called_at_every_step_is_one_place() -> None:
    model = Unrolled()
    with torch.no_grad():
        model.cell.layer.weight.copy_(torch.tensor([[0.5, 0, 0], [0, 1.5, 0], [0, 0, 0]]))  # falls, rises, stays
        model.cell.layer.bias.copy_(torch.tensor([0.0, 0.5, 0.7]))
    found = measured(model, torch.tensor([[1.0, 0.1, 0.2]]))
    assert {name.split("/")[0] for name in found if "/" in name} == {"cell.layer", "cell.act.tanh", "cell.sigmoid"}
    assert found["cell.act.tanh/dead_share"] == pytest.approx(1 / 3), "the steps are positions"


def test_what_is_applied_outside_of_modules_is_the_losss() -> None:
    diagnostic = ActivationsDiagnostic()
    diagnostic.use_probe(lambda model: F.logsigmoid(torch.tanh(model(torch.ones(2, 3)))).sum())
    assert diagnostic.measure(nn.Linear(3, 3)).keys() == {"Linear/rms"}


def test_layers_of_pytorchs_own_transformer_are_seen_though_it_has_a_fast_path() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2)
    assert {"layers.0.relu/dead_share", "layers.1.relu/dead_share"} <= measured(model, torch.randn(3, 5, 8)).keys()


# --- dead, saturated, zero -----------------------------------------------------------------------------------------


def test_dead_units_are_those_that_never_move() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 1]]))
        model[0].bias.copy_(torch.tensor([0.0, -100, 0, 0]))  # the second never fires
        model[2].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1e-4, 0]]))
        model[2].bias.copy_(torch.tensor([0.0, 1, 0.3]))  # the second is constant, the third moves by 1e-4
    x = torch.tensor([[1.0, 0.5], [2.0, 1.0], [-1.0, 3.0]])
    found = measured(model, x)
    assert found["1.relu/dead_share"] == 1 / 4
    assert found["3.tanh/dead_share"] == pytest.approx(2 / 3)
    assert found["dead_share"] == pytest.approx(3 / 7)


def test_units_are_channels_of_images_and_the_last_axis_of_all_else() -> None:
    images = torch.randn(3, 4, 5, 6)
    images[:, 1] = -1
    assert applied(F.relu, images)["dead_share"] == 1 / 4
    sequences = torch.randn(3, 5, 4)
    sequences[..., 1:3] = -1
    assert applied(F.relu, sequences)["dead_share"] == 2 / 4
    volumes = torch.randn(2, 3, 4, 5, 6)
    volumes[:, 2] = -1
    assert applied(F.relu, volumes)["dead_share"] == pytest.approx(1 / 3)


def test_a_layer_of_zeros_is_dead_and_one_position_tells_nothing() -> None:
    assert applied(F.relu, -torch.rand(6, 3)) == {"rms": 0, "dead_share": 1, "zero_share": 1}
    assert applied(F.relu, torch.ones(1, 3)).keys() == {"rms", "zero_share"}
    assert applied(F.relu, torch.ones(3)).keys() == {"rms", "zero_share"}


@pytest.mark.parametrize(
    ("function", "saturated", "zero"),
    [
        (torch.tanh, 4, None),  # |x| > 2.65
        (F.softsign, 0, None),
        (torch.sigmoid, 2, None),  # |x| > 4.6
        (F.hardsigmoid, 4, None),  # |x| >= 3
        (F.hardtanh, 6, None),
        (lambda x: F.hardtanh(x, -2.0, 4), 3, None),
        (lambda x: F.hardtanh(x, max_val=4.0, min_val=-7), 1, None),
        (nn.Hardtanh(0, 1), 3, 4),
        (F.relu6, 0, 4),
        (lambda x: F.relu6(2 * x), 2, 4),
        (F.relu, None, 4),
        (F.gelu, None, None),
    ],
)
def test_saturated_and_zero_shares(function: Any, saturated: int | None, zero: int | None) -> None:
    x = torch.tensor([-5.0, -3.0, -1.0, 0.0, 0.5, 1.0, 3.0, 5.0])[:, None]
    found = applied(function, x)
    assert found.get("saturated_share") == (None if saturated is None else saturated / 8)
    assert found.get("zero_share") == (None if zero is None else zero / 8)


def test_the_summary_counts_outputs_of_bounded_functions_alone() -> None:
    model = nn.Sequential(nn.Tanh(), nn.ReLU(), nn.Sigmoid())
    found = measured(model, torch.tensor([[9.0, 9.0], [0.1, -9.0]]))
    assert found["0.tanh/saturated_share"] == 3 / 4
    assert found["2.sigmoid/saturated_share"] == 0
    assert found["saturated_share"] == 3 / 8
    short = measured(model, torch.tensor([[9.0, 9.0], [0.1, -9.0]]), per_layer=False)
    assert short == {name: found[name] for name in ("dead_share", "saturated_share")}


@pytest.mark.parametrize("seed", range(4))
def test_invariances(seed: int) -> None:
    """The order of hidden units and of samples leaves it as it is; so does their scale, of dead units of a ReLU."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].bias.sub_(1.0)
    x = torch.randn(30, 5)
    plain = measured(model, x)
    assert 0 < plain["1.relu/zero_share"] < 1
    other, order = copy.deepcopy(model), torch.randperm(16)
    with torch.no_grad():
        for mine, theirs in ((other[0].weight, model[0].weight[order]), (other[0].bias, model[0].bias[order])):
            mine.copy_(theirs)
        other[2].weight.copy_(model[2].weight[:, order])
    assert measured(other, x[torch.randperm(30)]) == pytest.approx(plain, rel=1e-5)
    with torch.no_grad():
        other[0].weight.mul_(1e-4)
        other[0].bias.mul_(1e-4)
    scaled = measured(other, x)
    assert scaled["1.relu/rms"] == pytest.approx(1e-4 * plain["1.relu/rms"], rel=1e-4)
    assert scaled["1.relu/dead_share"] == plain["1.relu/dead_share"]


# --- broken numbers, other precisions ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_layer_that_is_not_finite_has_no_shares_and_the_others_have(bad: float) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 3), nn.ReLU())
    model[2].weight.data[0, 0] = bad
    found = measured(model, torch.randn(4, 3))
    assert found["1.sigmoid/dead_share"] == found["1.sigmoid/saturated_share"] == found["saturated_share"] == 0
    assert not math.isfinite(found["3.relu/rms"])
    assert all(math.isnan(found[name]) for name in ("3.relu/dead_share", "3.relu/zero_share", "dead_share"))


def test_half_precision_overflows_no_square() -> None:
    model = nn.Linear(2, 2, bias=False).half()
    nn.init.constant_(model.weight, 1000.0)
    assert measured(model, torch.ones(3, 2).half())["Linear/rms"] == pytest.approx(2000, rel=1e-3)
    found = measured(nn.Sequential(nn.Linear(3, 4), nn.Tanh()).bfloat16(), 100 * torch.randn(50, 3).bfloat16())
    assert found["1.tanh/saturated_share"] > 0.8
    with torch.autocast("cpu", torch.bfloat16):
        assert measured(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(9, 3))["0/rms"] > 0


def test_the_pages_example(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "activations.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    assert "'1.relu/dead_share': " in capsys.readouterr().out
