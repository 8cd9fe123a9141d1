"""The network that restores vectors from noise, as a LightningModule."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import nn

__all__ = ["Denoise", "FirstStep", "TwoLayerNet"]

Pair = tuple[torch.Tensor, torch.Tensor]


class TwoLayerNet(nn.Module):
    """o = W2 tanh(W1 x + b1)^3 + b2."""

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(d, hidden), nn.Linear(hidden, d)
        for layer in (self.encoder, self.decoder):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.tanh(self.encoder(x)) ** 3)


class Denoise(L.LightningModule):
    """Minimises the squared error, summed over a vector and averaged over the batch."""

    def __init__(self, net: nn.Module, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer = optimizer

    def _loss(self, batch: Pair) -> torch.Tensor:
        noisy, clean = batch
        return (self.net(noisy) - clean).square().sum() / len(clean)

    def training_step(self, batch: Pair, _number: int) -> torch.Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Pair, _number: int) -> None:
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.parameters())


class FirstStep(L.Callback):
    """Says when the first training step was done, for the benchmark."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            print(f"first step: {time.time()}")
