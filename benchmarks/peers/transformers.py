"""Hugging Face's Trainer, with everything off that is not training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from benchmarks.problem import Ready

__all__ = ["fit"]


class _WithLoss(nn.Module):
    """The network as Trainer wants one: called with a batch's items by name, it returns its loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": F.cross_entropy(self.model(inputs), labels)}


class _Named:
    """The batches, their items by name."""

    def __init__(self, batches: Ready) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return ({"inputs": inputs, "labels": classes} for inputs, classes in self._batches)


class _Trainer(Trainer):
    """Takes the batches as they are: a DataLoader of its own would have to make them first."""

    def __init__(self, batches: Ready, **settings: object) -> None:
        super().__init__(**settings)
        self._batches = _Named(batches)

    def get_train_dataloader(self) -> _Named:
        return self._batches


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Ready) -> None:
    """Train for one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            num_train_epochs=1,
            max_grad_norm=0.0,  # no clipping: the others do none
            report_to="none",
            logging_strategy="no",
            logging_nan_inf_filter=False,  # it looks at the loss of every step
            save_strategy="no",
            disable_tqdm=True,
        )
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)  # by default the rate falls to 0
        trainer = _Trainer(batches, model=_WithLoss(model), args=settings, optimizers=(optimizer, constant))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
