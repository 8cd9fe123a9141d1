"""What a task's step has to return. A mistake there is told by its name, not by what fails because of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from expkit.errors import ConfigError
from train.tasks.base import StepOutput, Task

__all__ = ["checked"]


def checked(task: Task, out: Any, *, training: bool) -> StepOutput:
    """Return what `task.step` has returned, if it is as it must be. Nothing here waits for the device.

    Args:
        task: whose step it was, for the message.
        out: what it returned.
        training: whether the loss is to be differentiated.

    Raises:
        ConfigError: it is no StepOutput, or has something in it that is of the wrong type or shape.
    """
    wrong = _wrong(out, training)
    if wrong is None:
        step_output: StepOutput = out
        return step_output
    raise ConfigError(f"task: {type(task).__name__}.step returned {wrong}")


def _wrong(out: Any, training: bool) -> str | None:
    if type(out) is not StepOutput:
        return f"a {type(out).__name__}, {_MUST}"
    loss: Any = out.loss  # whatever the types say: they are somebody else's promise
    sums: Any = out.sums
    count: Any = out.count
    if not isinstance(loss, torch.Tensor):
        return f"a StepOutput whose loss is a {type(loss).__name__}, {_MUST}"
    if loss.dim():
        return f"a loss of shape {list(loss.shape)}, but it must be one number: the mean over the batch"
    if training and not loss.requires_grad:
        return "a loss without a gradient: it must come from the model, without detach() or no_grad on the way"
    if not isinstance(sums, Mapping):
        return f"a StepOutput whose sums are a {type(sums).__name__}, {_MUST}"
    for name, value in sums.items():
        if not isinstance(value, torch.Tensor):
            return f"a StepOutput whose {name!r} is a {type(value).__name__}, {_MUST}"
        if value.dim():
            return f"{name!r} of shape {list(value.shape)}, but it must be one number: the sum over the batch"
    # A tensor counts too, where only the device knows: the tokens that are no padding.
    if isinstance(count, torch.Tensor) and count.dim():
        return f"a count of shape {list(count.shape)}, but it must be one number: how many samples the batch held"
    if not isinstance(count, (int, float, torch.Tensor)):
        return f"a StepOutput whose count is a {type(count).__name__}, but it must be an int"
    return None


_MUST = "but it must be StepOutput(loss, sums, count), with tensors for the loss and each sum"
