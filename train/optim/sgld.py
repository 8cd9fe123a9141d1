"""Stochastic gradient Langevin dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from expkit.errors import ConfigError

__all__ = ["SGLD"]


class SGLD(Optimizer):
    """theta <- theta - lr * gradient + sqrt(2 lr temperature) * N(0, 1) (Welling and Teh 2011).

    Args:
        params: parameters, or groups of them.
        lr: step size.
        temperature: 0 gives plain gradient descent.

    Raises:
        ConfigError: a negative step size or temperature.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, temperature: float = 1.0) -> None:
        for key, value in (("lr", lr), ("temperature", temperature)):
            if value < 0:
                raise ConfigError(f"optimizer.{key}={value} is negative: SGLD needs 0 or more")
        super().__init__(params, {"lr": lr, "temperature": temperature})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one update; noise comes from the global generator of each parameter's device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            scale = math.sqrt(2 * group["lr"] * group["temperature"])
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.add_(parameter.grad, alpha=-group["lr"])
                if scale:
                    parameter.add_(torch.randn_like(parameter), alpha=scale)
        return loss
