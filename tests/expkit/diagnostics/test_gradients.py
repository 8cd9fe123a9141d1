"""Gradients and updates: what is measured is what numpy says of the same arrays, whatever the optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from expkit.diagnostics import DiagnosticSuite
from expkit.diagnostics.gradients import GradientsDiagnostic
from expkit.schedule import Progress


class Net(nn.Module):
    """A nested layer, a parameter of its own, a tied weight, and one that never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.head = nn.Linear(8, 8)
        self.head.weight = self.body[2].weight  # type: ignore[assignment]
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x)) * self.scale
        return out


def backward(model: nn.Module, size: float = 1.0) -> None:
    model.zero_grad()
    (size * model(torch.randn(5, 6, generator=torch.Generator().manual_seed(1)))).square().mean().backward()


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "fused": lambda p: torch.optim.Adam(p, 0.01, fused=True),
    "maximize": lambda p: torch.optim.Adam(p, 0.01, maximize=True, foreach=True, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_is_what_numpy_says(optimizer: str) -> None:
    model = Net()
    update, diagnostic = OPTIMIZERS[optimizer](list(model.parameters())), GradientsDiagnostic()
    for _ in range(3):
        backward(model)
        used = {name: p for name, p in model.named_parameters() if p.grad is not None}
        before = {name: p.detach().numpy().astype(np.float64) for name, p in used.items()}
        before = {name: value.copy() for name, value in before.items()}
        gradient = {name: p.grad.numpy().astype(np.float64).copy() for name, p in used.items() if p.grad is not None}
        with torch.no_grad():
            diagnostic.before_update(model)
        update.step()
        change = {name: p.detach().numpy().astype(np.float64) - before[name] for name, p in used.items()}
        with torch.no_grad():
            found = diagnostic.measure(model)

        groups = {
            "": list(used),
            "body.0/": ["body.0.weight", "body.0.bias"],
            "body.2/": ["body.2.weight", "body.2.bias"],
            "head/": ["head.bias"],  # its weight is body.2's, and counted there, once
            "scale/": ["scale"],
        }
        expected = {}
        for prefix, names in groups.items():
            gradients, weights, changes = (
                np.concatenate([part[name].ravel() for name in names]) for part in (gradient, before, change)
            )
            expected |= {
                f"{prefix}norm": np.linalg.norm(gradients),
                f"{prefix}update_ratio": np.linalg.norm(changes) / np.linalg.norm(weights),
                f"{prefix}zero_share": np.mean(gradients == 0),
                f"{prefix}nonfinite_share": 0.0,
            }
        assert found == {name: pytest.approx(value, rel=1e-5, abs=1e-12) for name, value in expected.items()}


def test_zeros_are_counted() -> None:
    model = nn.Linear(4, 1, bias=False)
    model.weight.grad = torch.tensor([[0.0, 1.0, -0.0, 2.0]])
    diagnostic = GradientsDiagnostic(update_ratio=False)
    diagnostic.before_update(model)
    found = diagnostic.measure(model)
    assert found == {
        **{"norm": pytest.approx(math.sqrt(5)), "zero_share": 0.5, "nonfinite_share": 0.0},
        **{"weight/norm": pytest.approx(math.sqrt(5)), "weight/zero_share": 0.5, "weight/nonfinite_share": 0.0},
    }


def test_what_is_no_number_is_counted_and_a_norm_that_overflows_is_not() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight.grad = torch.tensor([[math.nan, 1.0], [math.inf, 0.0]])
    model[1].weight.grad = torch.full((2, 2), 3e38)
    diagnostic = GradientsDiagnostic()
    diagnostic.before_update(model)
    found = diagnostic.measure(model)
    assert found["nonfinite_share"] == 2 / 8
    assert found["0/nonfinite_share"] == 0.5
    assert math.isnan(found["0/norm"])
    assert found["1/nonfinite_share"] == 0.0
    assert found["update_ratio"] == 0.0


def test_nothing_is_said_where_there_is_no_gradient() -> None:
    diagnostic, model = GradientsDiagnostic(), Net()
    assert diagnostic.measure(model) == {}
    diagnostic.before_update(model)
    assert diagnostic.measure(model) == {}
    backward(model)
    diagnostic.before_update(model)
    assert diagnostic.measure(model)
    assert diagnostic.measure(model) == {}, "an update is measured once"


def test_weights_of_zero_have_no_ratio() -> None:
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    model(torch.ones(1, 2)).sum().backward()
    diagnostic = GradientsDiagnostic(per_layer=False)
    diagnostic.before_update(model)
    torch.optim.SGD(model.parameters(), 0.1).step()
    found = diagnostic.measure(model)
    assert found.keys() == {"norm", "zero_share", "nonfinite_share", "update_ratio"}
    assert math.isnan(found["update_ratio"])


def test_half_precision_weights_are_measured_in_single() -> None:
    model = nn.Linear(200, 200, bias=False).to(torch.bfloat16)
    model.weight.grad = torch.full((200, 200), 0.01, dtype=torch.bfloat16)
    diagnostic = GradientsDiagnostic()
    diagnostic.before_update(model)
    assert diagnostic.measure(model)["norm"] == pytest.approx(200 * float(torch.tensor(0.01, dtype=torch.bfloat16)))


def test_it_measures_with_the_records_of_the_loss() -> None:
    suite, model = DiagnosticSuite({"gradients": GradientsDiagnostic()}, log_interval=5), Net()
    looks = []
    for step in range(1, 11):
        look = suite.look_ahead(model, Progress(step=step), last=False)
        assert (look is not None) == suite.due
        looks += [step] if look is not None else []
    assert looks == [5, 10]


def test_norms_of_large_matrices_have_no_rounding_of_millions_of_sums() -> None:
    model = nn.Linear(4000, 2000, bias=False)
    model.weight.grad = torch.full_like(model.weight, 1e-3)
    diagnostic = GradientsDiagnostic()
    diagnostic.before_update(model)
    assert diagnostic.measure(model)["norm"] == pytest.approx(1e-3 * 8e6**0.5, rel=1e-5)
