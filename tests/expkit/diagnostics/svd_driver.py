"""Plays the runner for `SVDDiagnostic`: asks it before each update, and measures when it is due."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from expkit.diagnostics.svd import SVDDiagnostic
from train.models.gpt import GPT

__all__ = [
    *("KNOWN", "OF_GRADIENT", "OF_WEIGHT", "Training", "analyse", "digits_network", "gpt", "layer", "layers_of"),
    *("of_layer", "randomised"),
]

#: Names of the metrics, without the layer's.
OF_GRADIENT = {"principal_alignment", "minor_alignment", "alignment_excess"}
OF_WEIGHT = {"subspace_angle", "subspace_angle_rms", "reconstruction_error", "stable_rank"}
KNOWN = {"mode", "r", "trainable_ratio"}


class Training:
    """A network that learns the digits with Adam, in full batches.

    Args:
        model: 64 inputs, 10 outputs.
        lr: Adam's.
    """

    def __init__(self, model: nn.Module, lr: float = 1e-3) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.inputs = torch.from_numpy(digits.data).float()[:512] / 16
        self.classes = torch.from_numpy(digits.target)[:512]
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.step = 0

    def run(self, steps: int, diagnostics: list[SVDDiagnostic], parts: int) -> list[list[dict[str, Any]]]:
        """Do `steps` updates; return what each diagnostic measured, every `parts` steps."""
        measured: list[list[dict[str, Any]]] = [[] for _ in diagnostics]
        for _ in range(steps):
            F.cross_entropy(self.model(self.inputs), self.classes).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for diagnostic in diagnostics:
                diagnostic.before_update(self.model, self.step % parts, parts)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            if self.step % parts == 0:
                for diagnostic, into in zip(diagnostics, measured, strict=True):
                    into.append(diagnostic.measure(self.model))
        return measured


def digits_network(width: int = 128, seed: int = 0) -> nn.Sequential:
    """Return 64-width-width-10, its first matrix tall, its middle square, its last wide; the middle one is followed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def layer(weight: torch.Tensor, gradient: torch.Tensor | None = None) -> nn.Linear:
    """Return the linear layer of a weight and its gradient."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight.clone())
    linear.weight.grad = None if gradient is None else gradient.to(weight.dtype)
    return linear


def analyse(diagnostic: SVDDiagnostic, linear: nn.Linear) -> dict[str, float]:
    """Return what the diagnostic says of a model that is one layer, without the layer's name."""
    diagnostic.before_update(linear)
    return of_layer(diagnostic.measure(linear), "model")


def of_layer(measured: dict[str, Any], name: str) -> dict[str, float]:
    """Return the metrics of one layer."""
    return {key.removeprefix(f"{name}/"): value for key, value in measured.items() if key.startswith(f"{name}/")}


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a weight and a gradient."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


def gpt() -> nn.Module:
    """Return one of 12 linear layers."""
    return randomised(GPT(vocab_size=11, context_length=4, d_model=16, num_layers=2, num_heads=2))


def layers_of(measured: dict[str, Any]) -> set[str]:
    """Return the layers that were measured."""
    return {name.rpartition("/")[0] for name in measured}
