"""The shapes of learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from expkit.errors import ConfigError
from tests.train.helpers import Regression, Run
from train.config.trainer import UNKNOWN_STEPS
from train.schedulers import constant, cosine, step


def ratios(make: Callable[..., Any], total: int, **options: Any) -> list[float]:
    """The learning rate at each update of a run, as a fraction of the configured one, and the one after it."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = make(optimizer, total, **options)
    found = []
    for _ in range(total + 1):
        found.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        schedule.step()
    return found


def test_constant_is_no_schedule_at_all() -> None:
    run = Run(scheduler=constant, max_epochs=2).fit()
    assert run.runner.update.scheduler is None
    assert set(run.values("learning_rate")) == {0.05}


def test_cosine_falls_along_half_a_cosine() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * done / 20)) for done in range(21)]
    assert ratios(cosine, 20) == pytest.approx(expected)
    assert expected[-1] == 0


def test_cosine_ends_at_the_ratio_that_is_asked_for() -> None:
    found = ratios(cosine, 20, min_ratio=0.2)
    assert found[0] == 1
    assert found[10] == pytest.approx(0.6)
    assert found[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("warmup", [4, 0.2], ids=["steps", "fraction"])
def test_warm_up_rises_linearly_to_the_full_rate(warmup: float) -> None:
    found = ratios(cosine, 20, warmup=warmup)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * done / 16)) for done in range(17)])


def test_warm_up_may_take_the_whole_run() -> None:
    assert ratios(cosine, 4, warmup=4)[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert ratios(cosine, 4, warmup=9)[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_the_rate_never_rises_again_past_the_end() -> None:
    """A run can be continued for longer than it was planned."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = cosine(optimizer, 5, min_ratio=0.1)
    for _ in range(8):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("size", [4, 0.4], ids=["steps", "fraction"])
def test_step_falls_by_a_factor_at_each_interval(size: float) -> None:
    assert ratios(step, 10, step_size=size, gamma=0.5) == pytest.approx([1] * 4 + [0.5] * 4 + [0.25] * 3)


def test_a_fraction_of_a_short_run_is_at_least_one_step() -> None:
    assert ratios(step, 3, step_size=0.01, gamma=0.5) == pytest.approx([1, 0.5, 0.25, 0.125])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (cosine, {"warmup": -1}, "scheduler.warmup=-1 is negative"),
        (step, {"step_size": -0.5}, "scheduler.step_size=-0.5 is negative"),
        (step, {"step_size": 0}, "scheduler.step_size=0"),
    ],
)
def test_bad_values_are_named(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ratios(make, 10, **options)


@pytest.mark.parametrize(
    ("make", "options"), [(cosine, {}), (cosine, {"warmup": 10}), (cosine, {"warmup": 0.1}), (step, {"step_size": 0.3})]
)
def test_a_run_of_unknown_length_needs_max_steps(make: Callable[..., Any], options: dict[str, Any]) -> None:
    """A warm-up over 5 % of 2 ** 62 steps would train at a learning rate of zero, and say nothing."""
    data = iter([])  # an iterable without a length
    total = Run(Regression(), data=data, max_epochs=1).runner.total_steps
    assert total == UNKNOWN_STEPS
    with pytest.raises(ConfigError, match=r"set trainer\.max_steps"):
        make(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), total, **options)


def test_steps_in_absolute_numbers_need_no_length() -> None:
    optimizer: Optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = step(optimizer, UNKNOWN_STEPS, step_size=2, gamma=0.1)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
