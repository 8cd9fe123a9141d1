"""Stochastic gradient Langevin dynamics against its formula."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

from expkit.errors import ConfigError
from tests.train.helpers import Run, same
from train.optim.sgld import SGLD


def parameter(value: torch.Tensor, gradient: torch.Tensor | None) -> nn.Parameter:
    made = nn.Parameter(value.clone())
    made.grad = gradient
    return made


def test_a_step_is_descent_plus_noise_of_the_formula() -> None:
    """theta - lr g + sqrt(2 lr T) xi, with the xi that the global generator gives."""
    theta, gradient = torch.randn(2, 50)
    moved = parameter(theta, gradient)
    torch.manual_seed(4)
    SGLD([moved], lr=0.1, temperature=0.3).step()
    torch.manual_seed(4)
    noise = torch.randn(50)
    torch.testing.assert_close(moved.detach(), theta - 0.1 * gradient + math.sqrt(2 * 0.1 * 0.3) * noise)


@pytest.mark.parametrize(("lr", "temperature"), [(0.01, 1.0), (0.1, 0.05), (2.0, 1e-6)])
def test_noise_has_variance_two_lr_temperature(lr: float, temperature: float) -> None:
    torch.manual_seed(0)
    moved = parameter(torch.zeros(100_000), torch.zeros(100_000))
    SGLD([moved], lr=lr, temperature=temperature).step()
    assert moved.var().item() == pytest.approx(2 * lr * temperature, rel=0.02)
    assert abs(moved.mean().item()) < 0.02 * math.sqrt(2 * lr * temperature)


def test_noise_differs_between_steps_and_between_parameters() -> None:
    one, other = (parameter(torch.zeros(1000), torch.zeros(1000)) for _ in range(2))
    optimizer = SGLD([one, other], lr=0.5)
    optimizer.step()
    first = one.detach().clone()
    optimizer.step()
    rows = torch.stack([first, one.detach() - first, other.detach()])
    assert (torch.corrcoef(rows) - torch.eye(3)).abs().max() < 0.8  # `other` holds the sum of two draws of its own


def test_at_temperature_zero_it_is_gradient_descent_and_draws_nothing() -> None:
    cold = Run(optimizer=functools.partial(SGLD, lr=0.02, temperature=0.0), max_epochs=3)
    plain = Run(optimizer=functools.partial(torch.optim.SGD, lr=0.02, foreach=False), max_epochs=3)
    before = torch.get_rng_state()
    assert same(cold.fit().weights(), plain.fit().weights())
    assert same(torch.get_rng_state(), before)


def test_it_samples_from_the_posterior_of_a_quadratic() -> None:
    """With loss theta^2 / 2 at temperature T the stationary variance is T / (1 - lr / 2)."""
    torch.manual_seed(0)
    moved = parameter(torch.zeros(20_000), None)
    optimizer = SGLD([moved], lr=0.2, temperature=0.5)
    for _ in range(60):
        moved.grad = moved.detach().clone()
        optimizer.step()
    assert moved.var().item() == pytest.approx(0.5 / 0.9, rel=0.04)


def test_groups_have_their_own_rate_and_temperature() -> None:
    still, warm = (parameter(torch.zeros(1000), torch.ones(1000)) for _ in range(2))
    SGLD([{"params": [still], "temperature": 0.0}, {"params": [warm], "lr": 0.5}], lr=0.1, temperature=1.0).step()
    assert (still == -0.1).all()
    assert warm.mean().item() == pytest.approx(-0.5, abs=0.2)
    assert warm.std().item() == pytest.approx(1.0, rel=0.1)


def test_parameters_without_gradient_stay_where_they_are() -> None:
    still = parameter(torch.ones(3), None)
    SGLD([still], lr=0.1).step()
    assert (still == 1).all()


def test_a_closure_is_evaluated_with_gradients() -> None:
    moved = parameter(torch.ones(3), None)
    optimizer = SGLD([moved], lr=0.1, temperature=0.0)

    def closure() -> float:
        loss = moved.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 3.0
    torch.testing.assert_close(moved.detach(), torch.full((3,), 0.8))


@pytest.mark.parametrize("key", ["lr", "temperature"])
def test_negative_values_are_refused_by_name(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.{key}=-0\.1 is negative"):
        SGLD([parameter(torch.ones(1), None)], **{key: -0.1})
