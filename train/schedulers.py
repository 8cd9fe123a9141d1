"""Learning-rate schedules: how many times the configured learning rate holds at each step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from expkit.errors import ConfigError
from train.config.trainer import UNKNOWN_STEPS

__all__ = ["constant", "cosine", "step"]


def constant(optimizer: Optimizer) -> None:  # noqa: ARG001 - every schedule is called alike
    """The learning rate as configured: no schedule at all."""
    return None


def cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.0, min_ratio: float = 0.0) -> LambdaLR:
    """Linear warm-up, then a half cosine (Loshchilov and Hutter 2017, without restarts).

    Args:
        optimizer: whose learning rates are scheduled.
        total_steps: updates of the whole run.
        warmup: updates of warm-up, or a fraction of `total_steps` if below 1.
        min_ratio: learning rate at the end, as a fraction of the configured one.
    """
    _check_known("scheduler=cosine", total_steps)
    warmup_steps = _steps("scheduler.warmup", warmup, total_steps)

    def ratio(done: int) -> float:
        if done < warmup_steps:
            return (done + 1) / (warmup_steps + 1)
        passed = min(1.0, (done - warmup_steps) / max(1, total_steps - warmup_steps))
        return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * passed))

    return LambdaLR(optimizer, ratio)


def step(optimizer: Optimizer, total_steps: int, step_size: float, gamma: float = 0.1) -> LambdaLR:
    """The learning rate times `gamma` every `step_size` updates (or that fraction of `total_steps` if below 1)."""
    if step_size == 0:
        raise ConfigError("scheduler.step_size=0: give a number of steps, or a fraction below 1")
    size = max(1, _steps("scheduler.step_size", step_size, total_steps))
    return LambdaLR(optimizer, lambda done: gamma ** (done // size))


def _steps(key: str, value: float, total_steps: int) -> int:
    if value < 0:
        raise ConfigError(f"{key}={value} is negative: give a number of steps, or a fraction below 1")
    if value >= 1:
        return int(value)
    if value > 0:
        _check_known(f"{key}={value}", total_steps)
    return round(value * total_steps)


def _check_known(what: str, total_steps: int) -> None:
    if total_steps >= UNKNOWN_STEPS:
        raise ConfigError(f"{what} needs the number of steps, and the data loader has no length: set trainer.max_steps")
