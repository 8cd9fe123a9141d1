"""Lightning Fabric: a loop of one's own, with what the guide tells to change in it."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import nn

from benchmarks.problem import Ready

__all__ = ["fit"]


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Ready) -> None:
    """Train for one epoch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a SLURM here which is not used
        fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    # setup_dataloaders would only move batches to the device, where they are.
    wrapped, stepper = fabric.setup(model, optimizer)
    wrapped.train()
    for inputs, classes in batches:
        loss = F.cross_entropy(wrapped(inputs), classes)
        fabric.backward(loss)
        stepper.step()
        stepper.zero_grad(set_to_none=True)
