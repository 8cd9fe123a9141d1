"""The sparsity diagnostic: the share of zeros, of the weights that the model uses."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from expkit.diagnostics import DiagnosticSuite
from expkit.diagnostics.sparsity import SparsityDiagnostic
from expkit.errors import ConfigError


def linear(weight: list[list[float]]) -> nn.Linear:
    """A layer with this weight, whose bias is all zeros."""
    values = torch.tensor(weight)
    layer = nn.Linear(values.shape[1], values.shape[0])
    layer.weight.data = values
    nn.init.zeros_(layer.bias)
    return layer


def test_it_is_the_share_of_zeros_of_each_weight_and_of_all_together() -> None:
    model = nn.Sequential(linear([[0.0, 1.0], [0.0, -0.0]]), nn.ReLU(), linear([[2.0, 0.0]]))
    assert SparsityDiagnostic().measure(model) == {
        "sparsity": 4 / 6,  # not the mean of the layers' shares
        "0.weight": 3 / 4,
        "2.weight": 1 / 2,
    }
    assert SparsityDiagnostic(per_layer=False).measure(model) == {"sparsity": 4 / 6}


def test_the_name_of_the_tracking_guide_has_no_prefix() -> None:
    model = nn.ModuleDict({"fc": linear([[0.0, 1.0]])})
    metrics, details = DiagnosticSuite({"sparsity": SparsityDiagnostic()}).measure(model)
    assert metrics.keys() == {"sparsity", "sparsity/fc.weight", "sparsity/computation_time_ms"}
    assert not details


@pytest.mark.parametrize(("threshold", "share"), [(0, 1 / 5), (0.1, 2 / 5), (0.5, 4 / 5), (2, 5 / 5)])
def test_weights_up_to_the_threshold_count_as_zero(threshold: float, share: float) -> None:
    model = linear([[0.0, 0.1, -0.5, 0.5, -2.0]])
    assert SparsityDiagnostic(threshold=threshold).measure(model)["sparsity"] == share


def test_biases_and_norms_do_not_count() -> None:
    model = nn.Sequential(linear([[1.0, 0.0]]), nn.LayerNorm((2, 2)), nn.BatchNorm2d(2), nn.MultiheadAttention(2, 1))
    model[3] = nn.MultiheadAttention(2, 1, add_bias_kv=True)
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[3].bias_k)
    found = SparsityDiagnostic().measure(model)
    assert found.keys() == {"sparsity", "0.weight", "3.in_proj_weight", "3.out_proj.weight"}
    assert found["sparsity"] == 1 / (2 + 12 + 4)


def test_a_shared_weight_counts_once() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "head": nn.Linear(2, 3, bias=False)})
    model["head"].weight = model["embedding"].weight
    assert SparsityDiagnostic().measure(model).keys() == {"sparsity", "embedding.weight"}


@pytest.mark.parametrize("seed", range(4))
def test_invariances(seed: int) -> None:
    """The order of hidden units, the scale and the signs of weights leave it as it is."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(7, 5, generator=generator), torch.randn(3, 7, generator=generator)
    first[torch.rand(7, 5, generator=generator) < 0.3] = 0
    order = torch.randperm(7, generator=generator)
    signs = torch.randn(7, generator=generator).sign()
    models = [
        nn.Sequential(linear(one.tolist()), linear(other.tolist()))
        for one, other in [
            (first, second),
            (first[order], second[:, order]),
            (first * -1e-3, second * 1e3),
            (first * signs[:, None], second * signs),
        ]
    ]
    plain, *others = [SparsityDiagnostic().measure(model) for model in models]
    assert plain["sparsity"] == int((first == 0).sum()) / (35 + 21)
    assert all(found == plain for found in others)


# --- weights that are computed from others -------------------------------------------------------------------------


def test_a_pruned_weight_counts_with_its_mask_and_under_its_own_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 5))
    prune.l1_unstructured(model[0], "weight", amount=0.25)
    prune.ln_structured(model[2], "weight", amount=2, n=2, dim=1)
    prune.random_unstructured(model[0], "bias", amount=3)
    expected = {"sparsity": 30 / 120, "0.weight": 20 / 80, "2.weight": 10 / 40}
    assert SparsityDiagnostic().measure(model) == expected
    prune.l1_unstructured(model[0], "weight", amount=0.5)  # of those that are left
    assert SparsityDiagnostic().measure(model)["0.weight"] == 50 / 80
    for layer in (model[0], model[2]):
        prune.remove(layer, "weight")
    assert SparsityDiagnostic().measure(model)["0.weight"] == 50 / 80, "pruning made permanent"


def test_the_pruned_weight_is_the_one_after_the_optimizers_last_step() -> None:
    model = nn.Sequential(linear([[1.0, 2.0, 3.0, 4.0]]))
    prune.custom_from_mask(model[0], "weight", torch.tensor([[0.0, 1.0, 1.0, 1.0]]))
    with torch.no_grad():
        model[0].weight_orig[0, 3] = 0  # `model[0].weight` still has the 4 of the last forward pass
    assert SparsityDiagnostic().measure(model)["sparsity"] == 2 / 4


class Half(nn.Module):
    """Sets every other column to zero."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(weight.shape[1]) % 2
        return weight * mask


def test_a_parametrized_weight_counts_as_it_is_used() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(4, 3), "head": nn.Linear(3, 2)})
    parametrize.register_parametrization(model["fc"], "weight", Half())
    assert SparsityDiagnostic().measure(model) == {"sparsity": 6 / 18, "fc.weight": 6 / 12, "head.weight": 0}


def test_spectral_norm_in_training_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), linear([[1.0, 1.0]]))
    parametrizations.spectral_norm(model[0])
    parametrizations.weight_norm(model[1])
    nn.init.normal_(model[0].parametrizations.weight.original)  # what it knows of the norm is out of date
    before = copy.deepcopy(model.state_dict())
    assert SparsityDiagnostic().measure(model) == {"sparsity": 0, "0.weight": 0, "1.weight": 0}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


# --- odd models and values -----------------------------------------------------------------------------------------


def test_what_is_no_number_is_not_zero() -> None:
    model = linear([[0.0, math.nan, math.inf, -math.inf]])
    for threshold in (0.0, 1.0):
        assert SparsityDiagnostic(threshold=threshold).measure(model)["sparsity"] == 1 / 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = linear([[0.0, 1.0, 0.25, 1e-9]]).to(dtype)
    assert (
        SparsityDiagnostic().measure(model)["sparsity"] == (2 if dtype == torch.float16 else 1) / 4
    )  # 1e-9 underflows


def test_frozen_weights_count_and_lazy_ones_wait() -> None:
    model = nn.Sequential(linear([[0.0, 1.0]]).requires_grad_(False), nn.LazyLinear(2))
    SparsityDiagnostic().check(model)
    assert SparsityDiagnostic().measure(model) == {"sparsity": 1 / 2, "0.weight": 1 / 2}


def test_a_model_without_weights_is_refused_in_one_line() -> None:
    model = nn.Sequential(nn.LayerNorm(3), nn.PReLU())
    with pytest.raises(ConfigError, match=r"^diagnostics\.sparsity: Sequential has no weights .*: leave it out$"):
        SparsityDiagnostic().check(model)
    assert SparsityDiagnostic().measure(model) == {}


@pytest.mark.parametrize("threshold", [-1e-9, math.nan, math.inf, "small", True, None])
def test_a_threshold_that_cannot_be_is_named(threshold: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^diagnostics\.sparsity\.threshold={threshold}: "):
        SparsityDiagnostic(threshold=threshold)


def test_the_pages_example(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "sparsity.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    assert "'0.weight': " in capsys.readouterr().out
