"""Lightning's Trainer, as it is when its own overhead is to be measured."""

from __future__ import annotations

import logging
import warnings

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.problem import Batch, Ready

__all__ = ["fit"]


class _Module(L.LightningModule):
    """The network, with automatic optimization, and nothing logged."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.model = model
        self._optimizer = optimizer

    def training_step(self, batch: Batch, _number: int) -> torch.Tensor:
        inputs, classes = batch
        return F.cross_entropy(self.model(inputs), classes)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._optimizer


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Ready) -> None:
    """Train for one epoch."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # which devices there are
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that barebones is for measurements, that the loader has few workers
        # barebones turns off the logger, checkpoints, progress bar, model summary, sanity check and `self.log`: it is
        # the Trainer's setting "for analyzing the overhead".
        trainer = L.Trainer(accelerator="cpu", devices=1, max_epochs=1, barebones=True)
        trainer.fit(_Module(model, optimizer), batches)
