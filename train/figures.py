"""Pictures of what models do, from arrays: the process that draws them imports this, and no torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["draw_predictions", "draw_rows"]

_MOST_CLASSES = 20
_ROWS, _COLUMNS = 3, 4
_WRONG = "#c0392b"

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def draw_rows(rows: Mapping[str, Floats]) -> Figure:
    """Draw images, (images, height, width) from 0 to 1, in a row for each name."""
    from matplotlib.figure import Figure

    shown = len(next(iter(rows.values())))
    figure = Figure(figsize=(shown * 0.9, 3.2), layout="constrained")
    for (title, images), axes in zip(rows.items(), figure.subplots(len(rows), shown, squeeze=False), strict=True):
        for image, axis in zip(images, axes, strict=True):
            square = image.shape[0] == image.shape[1]
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, aspect="equal" if square else "auto")
            axis.set(xticks=[], yticks=[])
        axes[0].set_ylabel(title)
    return figure


def draw_predictions(labels: Ints, probabilities: Floats, classes: int, images: Floats | None) -> Figure:
    """Draw which classes are taken for which, and the images whose true label the model thinks least likely.

    Args:
        labels: true classes, (samples,).
        probabilities: of each class, (samples, classes).
        classes: how many there are.
        images: (samples, height, width), or None if they are no images.
    """
    from matplotlib.figure import Figure

    widths = [6.0, 5.5] if images is not None else [6.0]
    figure = Figure(figsize=(sum(widths), 5.4), layout="constrained")
    places: Any = figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _draw_confusion(places[0], labels, probabilities.argmax(axis=1), classes)
    if images is not None:
        _draw_hardest(places[1], images, labels, probabilities)
    return figure


def _draw_confusion(place: SubFigure, labels: Ints, predicted: Ints, classes: int) -> None:
    """Draw how often each class, a row, was taken for each, a column; a shade is a share of the row."""
    counts = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    correct, count = int(counts.trace()), len(labels)
    place.suptitle(f"{correct:,} of {count:,} right ({100 * correct / count:.1f} %)")
    axis = place.subplots()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    shades = np.sqrt(shares)  # the root, or few mistakes would hardly show
    right = np.eye(classes, dtype=bool)
    for colours, shown in (("Blues", right), ("Reds", ~right)):
        axis.imshow(np.where(shown & (counts > 0), shades, np.nan), cmap=colours, vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    if classes > _MOST_CLASSES:
        return
    axis.set(xticks=range(classes), yticks=range(classes))
    axis.tick_params(length=0)
    for row, column in np.argwhere(counts).tolist():
        colour = "white" if shades[row, column] > 0.6 else "black"
        axis.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=colour)


def _draw_hardest(place: SubFigure, images: Floats, labels: Ints, probabilities: Floats) -> None:
    """Draw the images whose true label is least likely to the model, the least likely first."""
    place.suptitle("hardest: true → predicted (probability)")
    likely = probabilities[np.arange(len(labels)), labels]
    hardest = likely.argsort(kind="stable")[: _ROWS * _COLUMNS]
    axes: Any = place.subplots(_ROWS, _COLUMNS)
    for axis, index in itertools.zip_longest(axes.flat, hardest.tolist()):
        axis.axis("off")
        if index is not None:
            true, predicted = int(labels[index]), int(probabilities[index].argmax())
            axis.imshow(images[index], cmap="gray_r", vmin=0, vmax=1)
            title = f"{true} → {predicted}  ({100 * probabilities[index, predicted]:.0f} %)"
            axis.set_title(title, fontsize=10, color="black" if true == predicted else _WRONG)
