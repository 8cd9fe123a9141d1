"""The bundled classification task: which digit is it?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from expkit.errors import ConfigError
from train.data import Batches, to_device
from train.faults import Fault, planted
from train.tasks.base import StepOutput, Task, build_fitting, check_data
from train.tasks.classify_data import LabelledData

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["ClassifyTask"]

_ROWS, _COLUMNS = 3, 4
_MOST_CLASSES = 20
_BATCH = 500
_WRONG = "#c0392b"


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

    def figures(self, model: nn.Module) -> dict[str, Figure]:
        """Return a picture of the validation data: which classes are taken for which, and the hardest images.

        The hardest are those whose true label the model thinks least likely.
        """
        from matplotlib.figure import Figure

        if self._val is None:
            return {}
        inputs, labels, probabilities = (torch.cat(parts) for parts in zip(*self._predictions(model), strict=True))
        widths = [6.0, 5.5] if inputs.ndim == 4 and inputs.shape[1] == 1 else [6.0]
        figure = Figure(figsize=(sum(widths), 5.4), layout="constrained")
        left, *right = figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
        _draw_confusion(left, labels, probabilities.argmax(dim=1), self.data.classes)
        for place in right:
            _draw_hardest(place, inputs[:, 0], labels, probabilities)
        return {"predictions": figure}

    def _predictions(self, model: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield inputs, labels and the probability of each class, for all validation data, on the CPU."""
        device = next(model.parameters()).device
        for batches in Batches(self._val, _BATCH, shuffle=False).epoch(0):
            for (inputs, labels), _ in batches.pieces:
                scores = model(to_device(inputs, device)).float().cpu()
                yield inputs, labels, scores.softmax(dim=1)


def _draw_confusion(place: SubFigure, labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> None:
    """Draw how often each class, a row, was taken for each, a column; a shade is a share of the row."""
    counts = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)
    correct, count = int(counts.trace()), len(labels)
    place.suptitle(f"{correct:,} of {count:,} right ({100 * correct / count:.1f} %)")
    axis = place.subplots()
    shades = (counts / counts.sum(dim=1, keepdim=True)).sqrt()  # the root, or few mistakes would hardly show
    right = torch.eye(classes, dtype=torch.bool)
    for colours, shown in (("Blues", right), ("Reds", ~right)):
        axis.imshow(shades.where(shown & (counts > 0), torch.nan).numpy(), cmap=colours, vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    if classes > _MOST_CLASSES:
        return
    axis.set(xticks=range(classes), yticks=range(classes))
    axis.tick_params(length=0)
    for row, column in counts.nonzero().tolist():
        colour = "white" if shades[row, column] > 0.6 else "black"
        axis.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=colour)


def _draw_hardest(place: SubFigure, images: torch.Tensor, labels: torch.Tensor, probabilities: torch.Tensor) -> None:
    """Draw the images whose true label is least likely to the model, the least likely first."""
    place.suptitle("hardest: true → predicted (probability)")
    hardest = probabilities.gather(1, labels[:, None]).squeeze(1).argsort()[: _ROWS * _COLUMNS]
    for axis, index in itertools.zip_longest(place.subplots(_ROWS, _COLUMNS).flat, hardest.tolist()):
        axis.axis("off")
        if index is not None:
            true, predicted = int(labels[index]), int(probabilities[index].argmax())
            axis.imshow(images[index].numpy(), cmap="gray_r", vmin=0, vmax=1)
            title = f"{true} → {predicted}  ({100 * probabilities[index, predicted]:.0f} %)"
            axis.set_title(title, fontsize=10, color="black" if true == predicted else _WRONG)
