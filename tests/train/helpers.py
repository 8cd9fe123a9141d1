"""A small task and a runner for it, which keeps its records."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import TensorDataset

from expkit.guards import Guard
from expkit.record import Record
from expkit.recorder import Recorder
from train.config.trainer import TrainerConfig
from train.data import Batches
from train.runner import Runner
from train.tasks.base import StepOutput, Task
from train.update import Update

torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other

CPU = torch.device("cpu")


class Regression(Task):
    """Least squares on fixed random vectors of length 3: two linear layers, with dropout between them if asked for."""

    def __init__(self, n: int = 20, n_val: int = 7, dropout: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(n, 3, generator=generator)
        self.y = self.x.sum(dim=1, keepdim=True) + 0.1 * torch.randn(n, 1, generator=generator)
        self.n_val = n_val
        self.dropout = dropout

    def build_model(self) -> nn.Module:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(self.dropout), nn.Linear(4, 1))

    def train_data(self) -> TensorDataset:
        return TensorDataset(self.x, self.y)

    def val_data(self) -> TensorDataset:
        return TensorDataset(self.x[: self.n_val], self.y[: self.n_val])

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        x, y = batch
        error = model(x) - y
        return StepOutput(error.square().mean(), {"absolute": error.abs().sum()}, len(x))


class Bad(Guard):
    """Skips the updates of `steps`, counted from 1, and those whose loss is not finite."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.seen = 0

    def bad(self, loss: torch.Tensor, gradient_norm: torch.Tensor | None) -> torch.Tensor:
        self.seen += 1
        return ~torch.isfinite(loss.detach()) | torch.tensor(self.seen in self.steps)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


#: Optimizers whose fused kernels leave everything as it was when a guard objects.
FUSED: dict[str, Callable[..., Optimizer]] = {
    "adam": functools.partial(torch.optim.Adam, lr=0.05, fused=True),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1, fused=True),
    "adagrad": functools.partial(torch.optim.Adagrad, lr=0.05, fused=True),
    "sgd": functools.partial(torch.optim.SGD, lr=0.02, fused=True),
    "momentum": functools.partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=0.1, fused=True),
}


class Run:
    """A runner of `task` on the CPU, and the records that it made.

    Args:
        task: what is trained.
        optimizer: makes the optimizer of the parameters.
        scheduler: makes the schedule of the optimizer.
        guards, precision: of the update.
        data: training data, if not the task's.
        parts: more of the runner's arguments (diagnostics, save, ...).
        trainer: keys of the trainer section. By default one epoch of batches of 4, logged at every step.
    """

    def __init__(
        self,
        task: Task | None = None,
        optimizer: Callable[..., Optimizer] = FUSED["adam"],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        guards: Sequence[Guard] = (),
        data: Any = None,
        parts: dict[str, Any] | None = None,
        **trainer: Any,
    ) -> None:
        self.task = task or Regression()
        self.config = TrainerConfig(**{"max_epochs": 1, "batch_size": 4, "log_interval": 1, **trainer})
        self.model = self.task.build_model()
        self.optimizer = optimizer(self.model.parameters())
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.records: list[Record] = []
        config, val = self.config, self.task.val_data()
        self.runner = Runner(
            self.task,
            self.model,
            Update(self.optimizer, self.scheduler, CPU, config.precision, config.clip_grad_norm, guards),
            config,
            Batches(
                self.task.train_data() if data is None else data,
                config.batch_size,
                config.seed,
                config.grad_accumulation,
                drop_last=config.drop_last,
                num_workers=config.num_workers,
            ),
            Batches(val, config.batch_size, shuffle=False) if val is not None else None,
            Recorder([self.records.append]),
            **(parts or {}),
        )

    def fit(self) -> Run:
        """Train to the end."""
        self.runner.fit()
        return self

    def values(self, name: str) -> list[float]:
        """Return the values of a metric, in the order of the records that have it."""
        return [record.metrics[name] for record in self.records if name in record.metrics]

    def series(self, name: str) -> list[float]:
        """Return a value of every step."""
        return [value for record in self.records for value in record.series.get(name, ())]

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the model's state."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    """Whether two nested structures are equal, tensors bit for bit (so that NaN equals itself)."""
    if isinstance(one, torch.Tensor):
        bits = [(tensor.dtype, tensor.shape, tensor.detach().numpy().tobytes()) for tensor in (one, other)]
        return bits[0] == bits[1]
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


#: An option of `detectors`: it asks for a switch again and again.
BACK_AND_FORTH = (
    "# @package detectors.switch\n_target_: tests.train.troubled.BackAndForth\nrespond: [switch]\ncooldown: 6\n"
)


def own_options(folder: Path, options: Mapping[str, str]) -> tuple[str, str]:
    """Write options (`task/mine` -> YAML) into a folder; return what selects it on the command line."""
    for name, content in options.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return "--config-dir", str(folder)
