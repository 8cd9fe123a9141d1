"""What goes into a picture of curves: which metrics share a panel, and which are worth one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expkit.record import to_number

if TYPE_CHECKING:
    from expkit.plots.curve import Curve

__all__ = [
    "COLOURS",
    "LOSSES",
    "RUN_STYLES",
    "Band",
    "Line",
    "Panel",
    "evenly",
    "group",
    "line_of_run",
    "make_panels",
    "numbers",
    "style_of_run",
]

#: What is drawn in the first panel, together.
LOSSES = ("train_loss", "loss", "val_loss")

_LOGARITHMIC = ("loss", "perplexity", "norm")

#: Colours of a theme for screens.
COLOURS = 8
#: Line styles that a run has, for training and validation; runs beyond the last colour have the next ones.
RUN_STYLES = 2

_OTHERS = 6  # colours of a theme's cycle that are neither training's nor validation's


Band = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Line:
    """A curve to be drawn.

    Attributes:
        label: its name in the legend.
        curve: its values.
        colour: place of its colour in the theme's cycle; beyond the cycle's end they begin again, dashed.
        dash: place of its line style: runs that share a panel have a colour each, and their metrics a style each.
        metric: what it shows, where the label names a run too.
        band: places, lower and upper ends of what surrounds it, (p,) each: the confidence interval of a mean.
    """

    label: str
    curve: Curve
    colour: int
    dash: int = 0
    metric: str = ""
    band: Band | None = None

    @property
    def style(self) -> int:
        """Place of its line style, with what colours that begin again add to it."""
        return self.colour // COLOURS + self.dash


def line_of_run(label: str, curve: Curve, number: int, metric: str = "", place: int = 0, of: int = 1) -> Line:
    """Return the line of a run where several share a panel: 16 runs with two metrics each are told apart.

    Args:
        label: its name.
        curve: its values.
        number: of the run.
        metric: what it shows.
        place: of the metric, among those of the panel.
        of: how many these are.
    """
    again = number // COLOURS
    return Line(label, curve, number, place + again * (max(of, RUN_STYLES) - 1), metric)


def style_of_run(number: int) -> int:
    """Return the line style (`Line.style`) of a run's first metric."""
    return number // COLOURS * RUN_STYLES


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn on one pair of axes.

    Attributes:
        title: what it shows.
        lines: may have no finite value, or be none at all.
        along: what the horizontal axis is, with its unit.
        stepped: whether a value holds until the next one: a count.
        logarithmic: whether the vertical axis is; None: where it is telling.
        marks: where something happened, which a thin line shows.
        remark: what to say where there is nothing to draw.
        missing: what a value is that is not finite.
    """

    title: str
    lines: Sequence[Line]
    along: str = "step"
    stepped: bool = False
    logarithmic: bool | None = None
    marks: Sequence[float] = ()
    remark: str = ""
    missing: str = "not finite"

    def bounds(self) -> tuple[float, float] | None:
        """Return the least and the greatest value of all lines, or None if there is none."""
        found = [bounds for line in self.lines if (bounds := line.curve.bounds()) is not None]
        return (min(low for low, _ in found), max(high for _, high in found)) if found else None

    def band(self, line: Line) -> Band | None:
        """Return the band of a line as it is shown: on a logarithmic axis it ends where the values do."""
        if line.band is None or not self.is_logarithmic():
            return line.band
        places, low, high = line.band
        least = (self.bounds() or (0.0, 0.0))[0]
        return places, np.maximum(low, least / 2), high

    def is_logarithmic(self) -> bool:
        """Whether values are shown on a logarithmic axis: no counts, and none of which one is 0 or less."""
        low, high = self.bounds() or (0.0, 0.0)
        telling = high > 10 * low and any(word in self.title for word in _LOGARITHMIC)
        return low > 0 and not self.stepped and (telling if self.logarithmic is None else self.logarithmic)


def group(names: Iterable[str]) -> dict[str, list[str]]:
    """Return title -> metrics of one panel: train_accuracy and val_accuracy are seen together, and all losses are."""
    groups: dict[str, list[str]] = {}
    for name in names:
        title = "loss" if name in LOSSES else name.removeprefix("train_").removeprefix("val_")
        groups.setdefault(title, []).append(name)
    return {
        title if len(members) > 1 or title == "loss" else members[0]: sorted(members, key=_validated_last)
        for title, members in groups.items()
    }


def _validated_last(name: str) -> tuple[bool, str]:
    return name.startswith("val_"), name


def make_panels(groups: Mapping[str, Sequence[str]], curves: Mapping[str, Curve]) -> list[Panel]:
    """Return a panel for each group, with the same colours for training and validation everywhere."""
    panels = []
    for index, (title, names) in enumerate(groups.items()):
        lines: list[Line] = []
        for name in names:
            trained = name.startswith("train_") or name in LOSSES
            colour = 1 if name.startswith("val_") else 0 if trained else 2 + index % _OTHERS
            taken = {line.colour for line in lines}
            lines.append(Line(name, curves[name], 2 if colour in taken else colour))
        panels.append(Panel(title, lines))
    return panels


def numbers(name: str, values: Any) -> list[float] | float | None:
    """Return what somebody passes as a metric as a list of numbers, or as one number; None if there is none yet.

    Args:
        name: the metric, for the message.
        values: a number, a sequence of numbers (None for a missing one), or a tensor or array of one dimension; or
            a sequence of such scalars.

    Raises:
        TypeError: it is neither.
    """
    if values is None:
        return None
    if getattr(values, "ndim", 0) > 1:
        raise TypeError(f"{name!r} has shape {tuple(values.shape)}, but a curve has one dimension")
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping):
        found = list(values)
        if set(map(type, found)) == {float}:  # at C speed, for histories of a million losses
            return found
        return [math.nan if value is None else _number(name, value) for value in found]
    return _number(name, values)


def _number(name: str, value: Any) -> float:
    try:
        return to_number(name, value)
    except TypeError:
        raise TypeError(f"{name!r} holds {type(value).__name__}, and a curve is made of numbers") from None


def evenly(count: int, step: int) -> Sequence[float]:
    """Return the steps of `count` values that spread evenly over the steps up to `step`, the last one at `step`.

    One value for each update gives 1 ... step; one more (counted from 0) 0 ... step.
    """
    if count == step or step <= 0:
        return range(1, count + 1)
    if count == step + 1:
        return range(count)
    if count < step:
        return [step * number / count for number in range(1, count + 1)]
    return [step * number / (count - 1) for number in range(count)]
