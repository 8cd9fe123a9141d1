"""What a strategy is, and that of a single process, which does nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import Optimizer

from expkit.dist import Dist
from expkit.errors import ConfigError

__all__ = ["Strategy", "past_model"]

_NOTHING = contextlib.nullcontext()


class Strategy:
    """One process: the model as it is. Base class of the others.

    Attributes:
        name: what it is called in `trainer.strategy`.
        dist: the ranks.
        is_sharded: whether each rank holds a part of the model's and the optimizer's state only.
    """

    name = "none"
    is_sharded = False

    def __init__(self, dist: Dist | None = None) -> None:
        self.dist = dist or Dist()

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model whose parameters the optimizer is to have. Called once, before there is an optimizer."""
        return model

    def adapt(self, optimizer: Optimizer) -> None:
        """Set what this strategy needs otherwise in an optimizer that has just been made."""

    def trained(self, model: nn.Module) -> nn.Module:
        """Return what a training step is to call in place of `model`, as prepared."""
        return model

    def piece(self, model: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context of forward and backward of one piece of a batch.

        Args:
            model: what `trained` returned.
            last: of the pieces of an update: gradients are exchanged with it.
        """
        return _NOTHING

    def stepping(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of the optimizer's step."""
        return _NOTHING

    @contextlib.contextmanager
    def whole(self, model: nn.Module, gradients: bool = False) -> Iterator[nn.Module]:
        """Give `model` as one process would have it, for who looks at it: on rank 0; called by all ranks.

        Args:
            model: as prepared.
            gradients: with the gradients of its parameters.
        """
        yield model

    @torch.no_grad()
    def share_buffers(self, model: nn.Module) -> None:
        """Let all ranks have rank 0's buffers (running means, say), which are those that a checkpoint holds.

        Called by all ranks before an evaluation, in which each judges a share of the data by one and the same model.
        """
        if self.dist.world_size == 1:
            return
        buffers = [buffer for module in model.modules() for buffer in _saved_buffers(module) if buffer.numel()]
        if buffers:
            together = torch.cat([buffer.contiguous().view(-1).view(torch.uint8) for buffer in buffers])
            parts = torch.split(self.dist.share(together), [buffer.nbytes for buffer in buffers])
            for buffer, part in zip(buffers, parts, strict=True):
                buffer.copy_(part.clone().view(buffer.dtype).view(buffer.shape))  # a clone begins where its type may

    def renew(self) -> None:
        """Take note that parameters of the model have been replaced."""


def past_model(what: str) -> ConfigError:
    """Return what to say of a task that computes with parts of a model, past what a strategy does at their calls."""
    return ConfigError(
        f"task: {what}: processes meet in what goes through model(...) only, so that task.step must call the model "
        "it is given, not one of its methods or parts"
    )


def _saved_buffers(module: nn.Module) -> Iterator[torch.Tensor]:
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield buffer
