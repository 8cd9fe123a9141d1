"""The probe: one batch and the loss on it travel in a checkpoint, so that a resume can tell whether it is where it was.

It finds what no checksum can: a model whose state is not all in its `state_dict`, code or libraries that have changed
in between, another device that computes something else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from expkit.checkpoints.staging import state_bytes
from expkit.checkpoints.state import StateError, check_loadable
from expkit.diagnostics._evaluation import evaluating
from expkit.errors import ConfigError
from expkit.rng import rng_state, set_rng_state
from train.data import Batches, to_device
from train.tasks.base import Task
from train.update import Update

__all__ = ["first_batch", "make_probe", "probe_loss"]

log = logging.getLogger("expkit")

_LARGEST = 16 * 1024**2
_FEW = 32


def make_probe(task: Task, model: nn.Module, update: Update, batch: Any) -> dict[str, Any] | None:
    """Return `batch` and the model's loss on it, or None for a batch that a checkpoint cannot hold.

    Of a batch of more than 16 MiB the first samples are taken.
    """
    try:
        batch = _small(batch)
        check_loadable(batch, "batch")
        return {"batch": batch, "loss": probe_loss(task, model, update, batch)}
    except StateError as error:
        log.debug("no probe: %s", error)
    except Exception as error:  # noqa: BLE001 - a task may not like a part of a batch; that is no reason not to save
        log.debug("no probe: the task fails on it (%s: %s)", type(error).__name__, error)
    return None


def first_batch(batches: Batches) -> Any:
    """Return the first batch that there is, always the same: of evaluation, or of a data set with a length.

    Of a batch of more than 16 MiB the first samples are returned.

    Raises:
        ConfigError: to look at a batch would take it away from training, or it cannot be made smaller.
    """
    if batches.size is None and batches.shuffle:
        raise ConfigError(
            "diagnostics need a batch that is always the same: give the task validation data, or training data with a "
            "length, or leave out the diagnostics that run the model on one"
        )
    before = rng_state()
    try:
        return _small(next(iter(batches.epoch(0))).pieces[0][0])
    except StateError as error:
        raise ConfigError(f"diagnostics need a batch of validation data: {error}") from error
    finally:
        set_rng_state(before)


@torch.no_grad()
def probe_loss(task: Task, model: nn.Module, update: Update, batch: Any) -> torch.Tensor:
    """Return the loss of `model` in evaluation mode on `batch`, 0-dimensional.

    Generators, buffers and the mode of every module are as before; what else a task or a model counts goes on as in an
    evaluation.
    """
    with evaluating(model), update.autocast():
        return task.step(model, to_device(batch, update.device)).loss.detach().float()


def _small(batch: Any) -> Any:
    if state_bytes(batch) <= _LARGEST:
        return batch
    sizes = {leaf.shape[0] if isinstance(leaf, torch.Tensor) and leaf.ndim else None for leaf in _leaves(batch)}
    if len(sizes) != 1 or None in sizes:
        raise StateError("the batch is large, and it is not clear what its samples are")
    batch = _head(batch)
    if state_bytes(batch) > _LARGEST:
        raise StateError("a few samples are more than 16 MiB")
    return batch


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _head(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value[:_FEW].clone()
    if isinstance(value, dict):
        return {key: _head(item) for key, item in value.items()}
    return type(value)(_head(item) for item in value)
