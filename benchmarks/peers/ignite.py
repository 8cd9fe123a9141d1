"""PyTorch-Ignite: an Engine without a handler."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import nn

from benchmarks.problem import Batch, Ready

__all__ = ["fit"]


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Ready) -> None:
    """Train for one epoch."""

    def step(_engine: Engine, batch: Batch) -> torch.Tensor:
        inputs, classes = batch
        loss = F.cross_entropy(model(inputs), classes)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()  # create_supervised_trainer would call .item() by default

    model.train()
    Engine(step).run(batches, max_epochs=1)
