"""Hugging Face accelerate: a loop of one's own, with what the quick tour tells to change in it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from benchmarks.problem import Ready

__all__ = ["fit"]


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Ready) -> None:
    """Train for one epoch."""
    accelerator = Accelerator(cpu=True)
    # A loader is prepared to be shared out and moved to the device: here is one process, and the batches are there.
    wrapped, stepper = accelerator.prepare(model, optimizer)
    wrapped.train()
    for inputs, classes in batches:
        loss = F.cross_entropy(wrapped(inputs), classes)
        accelerator.backward(loss)
        stepper.step()
        stepper.zero_grad(set_to_none=True)
