"""The bundled classification task: which digit is it?"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from expkit.errors import ConfigError
from train.data import Batches, to_device
from train.faults import Fault, planted
from train.figures import draw_predictions
from train.tasks.base import StepOutput, Task, build_fitting, check_data
from train.tasks.classify_data import LabelledData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ClassifyTask"]

_BATCH = 500


class ClassifyTask(Task):
    """Minimise the cross-entropy of the model's scores; log the accuracy, in percent.

    Args:
        data: makes the pairs (input, label).
        model: makes the network, which maps inputs, (batch, *data.shape), to scores, (batch, data.classes). It is given
            `shape`, `inputs` (how many numbers that is) and `classes`, those of them that it has parameters for.
        label_smoothing: share of each label's weight that is spread over all classes alike (Szegedy et al. 2016), in
            training only: losses on validation data can be compared whatever it is.
        fault: what is wrong with the training data, on purpose (`train/faults.py`).

    Raises:
        ConfigError: data of another task, or a share that cannot be.
    """

    def __init__(
        self,
        data: LabelledData,
        model: Callable[..., nn.Module],
        label_smoothing: float = 0.0,
        fault: Fault | None = None,
    ) -> None:
        check_data("classify", data, LabelledData, "task/data=labelled_digits")
        if not (isinstance(label_smoothing, int | float) and 0 <= label_smoothing < 1):
            raise ConfigError(f"task.label_smoothing={label_smoothing}: a share is needed, 0 or more and less than 1")
        self.data = data
        self.model = model
        self.label_smoothing = label_smoothing
        self.fault = fault
        self._val: Any = None

    def build_model(self) -> nn.Module:
        """Return a new network."""
        shape, classes = self.data.shape, self.data.classes
        known = {"inputs": math.prod(shape), "shape": shape, "classes": classes}
        batch, scores = torch.zeros(2, *shape), (2, classes)
        return build_fitting("classify", self.model, batch, scores, "task/model=cnn or mlp", **known)

    def train_data(self) -> Any:
        """Return the training pairs."""
        return planted(self.data.train(), self.fault)

    def val_data(self) -> Any:
        """Return the validation pairs."""
        self._val = self.data.val()
        return self._val

    def step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the loss of a batch: inputs, (batch, *shape), and labels, (batch,)."""
        inputs, labels = batch
        scores = model(inputs)
        smoothing = self.label_smoothing if model.training else 0.0
        loss = nn.functional.cross_entropy(scores, labels, label_smoothing=smoothing)
        correct = (scores.detach().argmax(dim=1) == labels).sum()
        return StepOutput(loss, {"accuracy": 100.0 * correct}, len(labels))

    def describe_data(self) -> dict[str, Any]:
        """Return what config.json says about the data."""
        values = {name: value for name, value in vars(self.data).items() if isinstance(value, int | float | str)}
        return {"name": type(self.data).__name__, **values}

    def describe_batch(self, batch: Any) -> list[str]:
        """Return the label of each input."""
        return [f"label {int(label)}" for label in batch[1]]

    def figures(self, model: nn.Module) -> dict[str, Callable[[], Figure]]:
        """Return a picture of the validation data: which classes are taken for which, and the hardest images.

        The hardest are those whose true label the model thinks least likely.
        """
        if self._val is None:
            return {}
        inputs, labels, probabilities = (torch.cat(parts) for parts in zip(*self._predictions(model), strict=True))
        images = inputs[:, 0].numpy() if inputs.ndim == 4 and inputs.shape[1] == 1 else None
        drawn = functools.partial(draw_predictions, labels.numpy(), probabilities.numpy(), self.data.classes, images)
        return {"predictions": drawn}

    def _predictions(self, model: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield inputs, labels and the probability of each class, for all validation data, on the CPU."""
        device = next(model.parameters()).device
        for batches in Batches(self._val, _BATCH, shuffle=False).epoch(0):
            for (inputs, labels), _ in batches.pieces:
                scores = model(to_device(inputs, device)).float().cpu()
                yield inputs, labels, scores.softmax(dim=1)
