"""Whether what somebody gives a CheckpointManager can work: refused at once, in one line, if not."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from expkit.errors import UserError

__all__ = ["check_metrics", "check_parts", "check_policy", "checked_mode", "whole_number"]


def whole_number(name: str, value: Any, at_least: int) -> int:
    """Return `value` as an int.

    Raises:
        UserError: it is none, or less than `at_least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least or isinstance(value, bool):
        raise UserError(f"{name} must be a whole number of at least {at_least}, not {value!r}")
    return number


def check_parts(model: object, optimizer: object | None) -> None:
    """Refuse what is no model, or no optimizer: its state_dict, say, or arguments in another order.

    Raises:
        UserError: it is none.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model is of type {type(model).__name__}: give the nn.Module itself")
    if optimizer is not None and not callable(getattr(optimizer, "state_dict", None)):
        raise UserError(f"optimizer is of type {type(optimizer).__name__}: give the torch.optim.Optimizer itself")


def check_policy(name: str, policy: object, method: str, maker: str) -> None:
    """Refuse a policy without its method, and say what makes one.

    Raises:
        UserError: it has none.
    """
    if not callable(getattr(policy, method, None)):
        raise UserError(f"{name}={policy!r} is no policy: give {maker}(...)")


def check_metrics(metrics: Any) -> None:
    """Refuse metrics by which checkpoints cannot be compared.

    Raises:
        UserError: they are no names and numbers.
    """
    if metrics is None:
        return
    right = isinstance(metrics, Mapping) and all(type(value) in (int, float) for value in metrics.values())
    if not right:
        raise UserError(f"metrics={metrics!r}: it must be names and numbers, by which checkpoints are compared")


def checked_mode(mode: str, monitor: str) -> Literal["min", "max"]:
    """Return whether a low or a high value of the metric `monitor` is good.

    Raises:
        UserError: `mode` is none of min, max and auto.
    """
    if mode not in ("min", "max", "auto"):
        raise UserError(f"mode={mode}: choose min, max or auto")
    high_is_good = mode == "max" or (mode == "auto" and monitor.endswith("accuracy"))
    return "max" if high_is_good else "min"
