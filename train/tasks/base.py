"""What a task is: a model, its data, and what one batch costs. Your own needs the first four methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from expkit.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StepOutput", "Task"]


@dataclass(slots=True)
class StepOutput:
    """What a batch gave.

    Attributes:
        loss: 0-dimensional tensor, the mean over the batch: what is differentiated.
        sums: metric name -> 0-dimensional tensor, the *sum* over the batch. The runner divides by the counts, so that
            averages are right whatever the batch sizes and the number of processes.
        count: how many samples (or tokens: whatever `loss` is the mean of) the batch held.
    """

    loss: torch.Tensor
    sums: Mapping[str, torch.Tensor]
    count: int


class Task:
    """Base class of tasks. A constructor must be quick and load nothing: it is how a configuration is checked.

    Metrics are called train_loss, val_loss, and train_NAME, val_NAME for each NAME in a step's sums.
    """

    #: What `count` counts: names the speed, `samples_per_sec` or `tokens_per_sec`.
    unit: str = "samples"
    #: Metrics of which the highest value is the best (`final/best_val_NAME`); of all others it is the lowest.
    higher_is_better: Collection[str] = ("accuracy",)

    def build_model(self) -> nn.Module:
        """Return a new model, on the CPU; the global generator is seeded."""
        raise ConfigError(f"task: {type(self).__name__} has no method build_model(self)")

    def train_data(self) -> Any:
        """Return the training data: a Dataset with a length, or a DataLoader of your own (then `batch_size` is yours).

        A dataset may have `set_epoch(epoch)`, called before each epoch, and `batch(indices)`, which returns a whole
        batch at once instead of one sample at a time.
        """
        raise ConfigError(f"task: {type(self).__name__} has no method train_data(self)")

    def val_data(self) -> Any:
        """Return the validation data, likewise, or None to go without evaluation."""
        raise ConfigError(f"task: {type(self).__name__} has no method val_data(self)")

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the loss and metrics of one batch, which is on the model's device. Used for evaluation too."""
        raise ConfigError(f"task: {type(self).__name__} has no method step(self, model, batch)")

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """Return the metrics to log, given the means over an interval (`loss` and the names in `sums`).

        Override it for what is no mean itself: a perplexity, say, is the exponential of the mean loss.
        """
        return means

    def describe_data(self) -> dict[str, Any]:
        """Return what config.json says about the data. Called after `train_data` and `val_data`."""
        return {}

    def figures(self, model: nn.Module) -> dict[str, Figure]:
        """Return pictures of what the model does, by name. `model` is in evaluation mode, without gradients."""
        return {}

    def samples(self, model: nn.Module) -> list[Any]:
        """Return what the model generates (texts, say) for results.json."""
        return []
