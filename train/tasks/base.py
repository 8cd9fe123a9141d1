"""What a task is: a model, its data, and what one batch costs. Your own needs the first four methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from expkit.errors import ConfigError, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StepOutput", "Task", "build_fitting", "check_data"]


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

    def model_metrics(self, model: nn.Module) -> dict[str, float]:
        """Return what every record of training says of the model besides, name -> number; names get no prefix.

        Called at log steps, under no_grad, with the model in training mode. What a step's loss or sums tell belongs
        there: this is for what can be read off the model's tensors.
        """
        return {}

    def describe_data(self) -> dict[str, Any]:
        """Return what config.json says about the data. Called after `train_data` and `val_data`."""
        return {}

    def describe_batch(self, batch: Any) -> list[str]:
        """Return what people can read of each sample in a batch, one line each, for `expkit batch`; [] for nothing."""
        return []

    def figures(self, model: nn.Module) -> Mapping[str, Figure | Callable[[], Figure]]:
        """Return pictures of what the model does, by name. `model` is in evaluation mode, without gradients.

        Better than a figure is what draws it, so that training need not wait: a picklable function, such as
        `functools.partial(draw, images)` of one at the top of a module, that another process calls.
        """
        return {}

    def samples(self, model: nn.Module) -> list[Any]:
        """Return what the model generates (texts, say) for results.json."""
        return []


def check_data(task: str, data: Any, kinds: type | tuple[type, ...], options: str) -> None:
    """Refuse data that were made for another task. To be called first in a task's constructor.

    Args:
        task: the task's option, for the message.
        data: what `task/data` gave.
        kinds: classes, or runtime-checkable protocols, of which it must be one.
        options: what to choose instead, such as "task/data=digits or two_hot".

    Raises:
        ConfigError: the data are of another kind.
    """
    if not isinstance(data, kinds):
        raise ConfigError(f"task.data is {type(data).__name__}, which task={task} cannot use: choose {options}")


def build_fitting(
    task: str,
    model: Callable[..., nn.Module],
    inputs: torch.Tensor,
    shape: tuple[int, ...],
    options: str,
    /,
    **known: Any,
) -> nn.Module:
    """Return a new model, tried on one batch. To be called in a task's `build_model`.

    Args:
        task: the task's option, for the message.
        model: makes the model.
        inputs: a batch of the shape and type that the task's data have; zeros will do.
        shape: what the output's shape must be.
        options: what to choose instead, such as "task/model=cnn or mlp".
        known: what follows from the data; given to a model that has a parameter of that name and no value for it.

    Raises:
        ConfigError: the model cannot be built or run, or its output has another shape.
    """
    made_by: Any = model
    given: set[str] = set()
    while isinstance(made_by, functools.partial):
        given |= {key for key, value in made_by.keywords.items() if value is not None}
        made_by = made_by.func
    cause = None
    try:
        accepted = inspect.signature(made_by).parameters.keys() - given
        made = model(**{key: value for key, value in known.items() if key in accepted})
        training = made.training
        with torch.no_grad():
            found = tuple(made.eval()(inputs).shape)  # in evaluation mode no random number is drawn
        made.train(training)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - a model of another task may raise anything
        cause, why = error, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    else:
        if found == shape:
            return made
        why = f"it maps {tuple(inputs.shape)} to {found}, not to {shape}"
    name = getattr(made_by, "__name__", "the model")
    raise ConfigError(f"task.model: {name} does not fit task={task}: choose {options} ({why})") from cause
