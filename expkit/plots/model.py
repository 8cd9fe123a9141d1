"""model: how the weights of each layer are distributed, and their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from expkit.plots.base import Plot, PlotContext, PlotSource
from expkit.plots.canvas import apart, colour_bar, finish, new_figure, sequential, style_axes
from expkit.plots.drawing import save_figure
from expkit.plots.earlier import Earlier
from expkit.plots.themes import Theme, ThemeName

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Distribution", "ModelPlot"]

_MOST_ROWS = 40
_SAMPLE = 8192  # values of a tensor
_BINS = 72
_DECADES = 6.0  # that are shown, at most

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a row of the picture shows of up to 8,192 values, evenly spread over a tensor.

    Attributes:
        logs: log10 of the sizes of those that are finite and not zero.
        rms: root mean square of the finite ones.
        zeros, nonfinite: shares of the sample.
    """

    logs: Floats
    rms: float
    zeros: float
    nonfinite: float


class ModelPlot(Plot):
    """Draws the distribution of each layer's weights, and of its gradients, as a heat map with a row for each layer.

    Args:
        viz_interval, theme: see `Plot`.
    """

    def __init__(self, *, viz_interval: int | Literal["auto"] = "auto", theme: ThemeName = "dark") -> None:
        super().__init__(viz_interval=viz_interval, theme=theme)
        self._gradients: dict[str, npt.NDArray[np.float32]] = {}

    def before_update(self, model: nn.Module) -> None:
        """Keep a sample of each gradient: after the update there are none."""
        chosen = _chosen(model)[0]
        self._gradients = _samples({name: tensor.grad for name, tensor in chosen.items() if tensor.grad is not None})

    def collect(self, source: PlotSource) -> dict[str, Any]:
        """Return samples of weights and gradients, in one copy from the device."""
        chosen, count = _chosen(source.model)
        gradients, self._gradients = self._gradients, {}
        return {"weights": _samples(chosen), "gradients": gradients, "of": count}

    def draw(self, context: PlotContext, collected: dict[str, Any]) -> list[Path]:
        """Draw model_step_N.png; nothing of a model without parameters."""
        weights = {name: _distribution(values) for name, values in collected["weights"].items()}
        gradients = {name: _distribution(values) for name, values in collected["gradients"].items()}
        if not weights:
            return []
        now = {
            f"{what}/{name}": np.array(one.rms)
            for what, found in (("weights", weights), ("gradients", gradients))
            for name, one in found.items()
        }
        first_step, first = Earlier(context.folder, "model", 1).first(context.step, now)
        names = list(weights)
        figure = new_figure(self.theme, 11, 2.3 + 0.19 * max(8, len(names)))
        parts = [("weights", weights), ("gradients", gradients)]
        parts = [part for part in parts if part[1]]
        for axes, (what, found) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            image = _heat_map(axes, names, found, first, self.theme, what)
            if axes is figure.axes[0]:
                axes.set_yticks(range(len(names)), labels=apart(names, 34), fontsize=7.5)
            else:
                axes.set_yticks([])
        colour_bar(figure, image, figure.axes[: len(parts)], self.theme, "share of the row's largest bin", shrink=0.8)
        note = f"Dots: root mean square; rings: at step {first_step:,}, the first drawn. Zeros have no place here: "
        note += "their share, and that of values that are not finite, stands on the right."
        if "gradients" not in dict(parts):
            note += " No gradients were seen."
        if len(names) < collected["of"]:
            note += f" Rows: {len(names)} of {collected['of']} tensors"
            note += ", matrices only, evenly spread." if len(names) == _MOST_ROWS else ", the matrices."
        finish(figure, self.theme, f"{context.name}: step {context.step:,}", note)
        return [save_figure(figure, context.folder / f"model_step_{context.step}.png")]


def _chosen(model: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Return name -> parameter of up to 40: all, or else the matrices, evenly spread. And how many there are."""
    found = {name: p for name, p in model.named_parameters() if p.numel() and p.is_floating_point()}
    names: Sequence[str] = list(found)
    if len(names) > _MOST_ROWS:
        names = [name for name in names if found[name].ndim > 1] or names
    if len(names) > _MOST_ROWS:
        names = [names[round(place * (len(names) - 1) / (_MOST_ROWS - 1))] for place in range(_MOST_ROWS)]
    return {name: found[name] for name in names}, len(found)


def _samples(tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    """Return name -> up to 8,192 values of each, evenly spread; one copy from each device."""
    import torch

    flat = {name: tensor.detach().reshape(-1) for name, tensor in tensors.items()}
    flat = {name: values[:: -(-len(values) // _SAMPLE)].float() for name, values in flat.items()}
    made: dict[str, npt.NDArray[np.float32]] = {}
    for device in {values.device for values in flat.values()}:
        here = {name: values for name, values in flat.items() if values.device == device}
        together = torch.cat([*here.values()]).cpu().numpy()
        ends = np.cumsum([len(values) for values in here.values()])
        made |= dict(zip(here, np.split(together, ends[:-1]), strict=True))
    return {name: made[name] for name in tensors}


def _distribution(values: npt.NDArray[np.float32]) -> Distribution:
    finite = values[np.isfinite(values)].astype(np.float64)
    sizes = np.abs(finite[finite != 0])
    return Distribution(
        logs=np.log10(sizes),
        rms=float(np.sqrt(np.mean(finite**2))) if len(finite) else float("nan"),
        zeros=float((len(finite) - len(sizes)) / len(values)),
        nonfinite=float(1 - len(finite) / len(values)),
    )


def _heat_map(
    axes: Any,
    names: Sequence[str],
    found: Mapping[str, Distribution],
    first: Mapping[str, npt.NDArray[Any]],
    theme: Theme,
    what: str,
) -> Any:
    """Draw a row for each of `names`, and return the image."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = _range(found.values())
    rows = np.zeros((len(names), _BINS))
    style_axes(axes, theme, what, f"size of a value of the {what}", grid=False)
    for row, name in enumerate(names):
        one = found.get(name)
        if one is None:
            axes.text(high, row, " none", color=theme.muted, fontsize=7, va="center")
            continue
        counts = np.histogram(np.clip(one.logs, low, high), bins=_BINS, range=(low, high))[0]
        rows[row] = counts / max(1, counts.max())
        remarks = [f"{share:.2g} % {kind}" for share, kind in _remarks(one)]
        axes.text(high, row, " " + ", ".join(remarks), color=theme.muted, fontsize=7, va="center")
        mark = theme.axes if theme.dashed else theme.cycle[1]
        before = first.get(f"{what}/{name}", np.zeros(1))
        for value, face in ((float(before.flat[0]), "none"), (one.rms, mark)):
            if value > 0:
                axes.plot(
                    np.clip(np.log10(value), low, high), row, "o", markersize=5, markerfacecolor=face,
                    markeredgecolor=mark if face == "none" else theme.figure, markeredgewidth=1,
                )  # fmt: skip
    image = axes.imshow(
        rows, aspect="auto", interpolation="nearest", cmap=sequential(theme), vmin=0, vmax=1,
        extent=(low, high, len(names) - 0.5, -0.5),
    )  # fmt: skip
    axes.set(xlim=(low, high), ylim=(len(names) - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda power, _: f"$10^{{{power:.0f}}}$"))
    return image


def _remarks(one: Distribution) -> list[tuple[float, str]]:
    return [
        (100 * share, kind) for share, kind in ((one.zeros, "zero"), (one.nonfinite, "not finite")) if share >= 0.001
    ]


def _range(found: Any) -> tuple[float, float]:
    """Return the powers of ten between which the sizes lie, but for the smallest ones."""
    ends = [np.percentile(one.logs, [0.5, 100]) for one in found if len(one.logs)]
    if not ends:
        return -1.0, 0.0
    high = float(np.ceil(max(end[1] for end in ends) + 0.05))
    low = float(np.floor(min(end[0] for end in ends)))
    return max(low, high - _DECADES), high
