"""svd: each layer's metrics against the thresholds of a switch over training, and singular values against noise."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from expkit.plots.base import Plot, PlotContext, PlotSource
from expkit.plots.canvas import DASHES, apart, finish, in_depth, new_figure, shown, style_axes
from expkit.plots.curve import Curve
from expkit.plots.drawing import save_figure
from expkit.plots.earlier import Earlier
from expkit.plots.journal_curves import JournalCurves
from expkit.plots.themes import Theme, ThemeName
from expkit.switch_thresholds import SwitchThresholds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SVDPlot", "noise_edge"]

log = logging.getLogger("expkit")

_FEW = 8  # layers that a legend tells apart
_SPECTRA = 6
_MOST_VALUES = 1 << 22  # of a matrix whose singular values are computed
#: metric -> its label, its threshold, and on which side of it the rules speak.
_METRICS = {
    "principal_alignment": ("share of the gradient's norm", "principal_danger", "danger above"),
    "minor_alignment": ("share of the gradient's norm", "minor_safe", "safe above"),
    "subspace_angle": ("radians", "angle_stable", "stable below"),
    "reconstruction_error": ("share of the weight's norm", "recon_safe", "safe below"),
}

Matrix = npt.NDArray[np.float32]


class SVDPlot(Plot):
    """Draws two pictures: svd, the metrics of `diagnostics=svd` from the journal; svd_spectrum, singular values.

    Thresholds are those of `detectors=svd_switch` as it is configured, or its defaults.

    Args:
        viz_interval, theme: see `Plot`.
    """

    def __init__(self, *, viz_interval: int | Literal["auto"] = "auto", theme: ThemeName = "dark") -> None:
        super().__init__(viz_interval=viz_interval, theme=theme)
        self._journal: JournalCurves | None = None
        self._said = False

    def collect(self, source: PlotSource) -> dict[str, Any]:
        """Return the thresholds, and the weights of up to six linear layers."""
        from expkit.detectors.svd_switch import SVDSwitch
        from expkit.diagnostics.svd import SVDDiagnostic

        diagnostic, detector = source.diagnostics.get("svd"), source.detectors.get("svd_switch")
        thresholds = detector.thresholds if isinstance(detector, SVDSwitch) else SwitchThresholds()
        patterns = diagnostic.patterns if isinstance(diagnostic, SVDDiagnostic) else ["*"]
        if diagnostic is None and not self._said:
            self._said = True
            log.warning("plots.svd: singular values only: diagnostics=svd measures what is drawn beside them")
        return {"thresholds": asdict(thresholds)} | _matrices(source.model, patterns)

    def draw(self, context: PlotContext, collected: dict[str, Any]) -> list[Path]:
        """Draw svd_step_N.png and svd_spectrum_step_N.png, or what there is of them."""
        if self._journal is None or self._journal.path != context.journal:
            self._journal = JournalCurves(context.journal, wanted=_wanted)
        layers = _by_layer(self._journal.read(context.step))
        made = []
        if layers:
            figure = _metrics(context, layers, collected["thresholds"], self.theme)
            made.append(save_figure(figure, context.folder / f"svd_step_{context.step}.png"))
        spectra = {name: values for name, each in collected["matrices"].items() if len(values := _spectrum(each))}
        if spectra:
            kept = {f"values/{name}": values for name, values in spectra.items()}
            first = Earlier(context.folder, "svd", 1).first(context.step, kept)
            figure = _spectra(context, spectra, collected, first, self.theme)
            made.append(save_figure(figure, context.folder / f"svd_spectrum_step_{context.step}.png"))
        return made


def noise_edge(singular_values: npt.NDArray[np.float64], rows: int, columns: int) -> float:
    """Return where the singular values of pure noise would end.

    A matrix of independent entries with standard deviation sigma has none above sigma (sqrt(m) + sqrt(n)), for large
    m and n (Marchenko and Pastur 1967; Bai and Yin 1993). Sigma is estimated from the median singular value, as by
    Gavish and Donoho (2014, section III.E): what a few large ones hold does not count.

    Args:
        singular_values: all of them, (min(rows, columns),).
        rows, columns: of the matrix.
    """
    short, long = min(rows, columns), max(rows, columns)
    sigma = float(np.median(singular_values)) / math.sqrt(long * _median_of_squares(short / long))
    return sigma * (math.sqrt(short) + math.sqrt(long))


def _median_of_squares(beta: float) -> float:
    """Return the median of the Marchenko-Pastur distribution with ratio `beta`, from 0 to 1, and variance 1."""
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    # With x = middle + radius cos(t), the density's root at both ends is gone; it is finite where beta is 1, too.
    t = (np.arange(20_000) + 0.5) * math.pi / 20_000
    x = (low + high) / 2 - (high - low) / 2 * np.cos(t)
    mass = np.cumsum(((high - low) / 2 * np.sin(t)) ** 2 / x)
    return float(x[np.searchsorted(mass, mass[-1] / 2)])


def _wanted(name: str) -> bool:
    return name.startswith("svd/") and name.rpartition("/")[2] in _METRICS


def _matrices(model: Any, patterns: Sequence[str]) -> dict[str, Any]:
    """Return the weights of up to six of the linear layers that match, evenly spread over the depth, on the host."""
    from expkit.diagnostics._evaluation import weight_of
    from expkit.diagnostics._layers import choose_layers, linear_layers

    layers = choose_layers(model, patterns, "diagnostics.svd.layers") if linear_layers(model) else {}
    sizes = {name: layer.in_features * layer.out_features for name, layer in layers.items()}
    fit = [name for name, each in layers.items() if min(each.in_features, each.out_features) > 1]
    fit = [name for name in fit if sizes[name] <= _MOST_VALUES]
    if len(fit) > _SPECTRA:
        fit = [fit[round(place * (len(fit) - 1) / (_SPECTRA - 1))] for place in range(_SPECTRA)]
    matrices = {name or "model": weight_of(layers[name]).detach().float().cpu().numpy() for name in fit}
    return {"matrices": matrices, "of": len(layers), "large": sum(size > _MOST_VALUES for size in sizes.values())}


def _spectrum(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return the singular values, falling; none where an entry is not finite."""
    if not np.isfinite(matrix).all():
        return np.zeros(0)
    return np.linalg.svd(matrix, compute_uv=False).astype(np.float64)


def _by_layer(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Return layer -> metric -> curve, layers in the journal's order."""
    found: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        layer, _, metric = name.removeprefix("svd/").rpartition("/")
        if curve.bounds() is not None:
            found.setdefault(layer, {})[metric] = curve
    return found


def _metrics(
    context: PlotContext, layers: Mapping[str, Mapping[str, Curve]], thresholds: Mapping[str, float], theme: Theme
) -> Figure:
    from matplotlib.lines import Line2D

    few = len(layers) <= _FEW
    figure = new_figure(theme, 11, 7.2)
    colours = [theme.cycle[n % len(theme.cycle)] for n in range(len(layers))] if few else in_depth(theme, len(layers))
    dashes = [DASHES[n % 4 if few and theme.dashed else 0] for n in range(len(layers))]
    panels = figure.subplots(2, 2).flat
    for axes, (metric, (label, key, side)) in zip(panels, _METRICS.items(), strict=True):
        style_axes(axes, theme, metric.replace("_", " "), "step", label)
        found = [each[metric].bounds() for each in layers.values() if metric in each]
        _scale(axes, [each for each in found if each is not None], thresholds[key], metric)
        for (layer, curves), colour, dash in zip(layers.items(), colours, dashes, strict=True):
            if metric in curves:
                steps, values = curves[metric].line()
                axes.plot(steps, values, color=colour, linestyle=dash, linewidth=1.5 if few else 0.9, label=layer,
                          marker="o" if len(steps) < 10 else "", markersize=3)  # fmt: skip
        axes.axhline(thresholds[key], color=theme.text, linestyle=(0, (9, 3, 1, 3)), linewidth=1.3, zorder=5)
        axes.set_title(f"dash-dotted: {side} {thresholds[key]:g}", loc="right", color=theme.muted, fontsize=8.5)
    if few:
        handles = [
            Line2D([], [], color=colour, linestyle=dash, label=label)
            for label, colour, dash in zip(apart(list(layers), 28), colours, dashes, strict=True)
        ]
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8.5, labelcolor=theme.text)
    else:
        _depth_bar(figure, list(layers), colours, theme)
    note = "docs/svd.md says what is measured, docs/adaptive-svd.md what the thresholds are for. "
    if not few:
        note += f"{len(layers)} layers."
    return finish(figure, theme, f"{context.name}: principal subspaces, step {context.step:,}", note)


def _scale(axes: Any, bounds: Sequence[tuple[float, float]], threshold: float, metric: str) -> None:
    """Leave room for the threshold, and show small numbers on a logarithmic axis."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    if metric.endswith("alignment"):
        axes.set_ylim(-0.02, 1.02)
        return
    low, high = min([low for low, _ in bounds] + [threshold]), max([high for _, high in bounds] + [threshold])
    if low > 0 and high > 10 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.4, high * 1.4)
    else:
        axes.set_ylim(0 if low >= 0 else None, high * 1.08)


def _depth_bar(figure: Figure, layers: Sequence[str], colours: Sequence[Any], theme: Theme) -> None:
    """Say which colour is which layer: a bar of all, with as many names as fit."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    count = len(layers)
    image = ScalarMappable(Normalize(-0.5, count - 0.5), ListedColormap(list(colours)))
    bar = figure.colorbar(image, ax=figure.axes, pad=0.015, aspect=45)
    bar.outline.set_visible(False)
    named = range(0, count, -(-count // 40))
    bar.set_ticks(list(named), labels=apart([layers[place] for place in named], 28))
    bar.ax.tick_params(colors=theme.muted, labelcolor=theme.muted, labelsize=7, length=0)
    bar.ax.invert_yaxis()


def _spectra(
    context: PlotContext,
    spectra: Mapping[str, npt.NDArray[np.float64]],
    collected: Mapping[str, Any],
    first: tuple[int, Mapping[str, npt.NDArray[np.float64]]],
    theme: Theme,
) -> Figure:
    columns = min(3, len(spectra))
    rows = -(-len(spectra) // columns)
    figure = new_figure(theme, 11, 1.2 + (3.0 if columns > 1 else 3.8) * rows)
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (layer, values) in zip(places, spectra.items(), strict=False):
        shape = collected["matrices"][layer].shape
        edge = noise_edge(values, *shape)
        above = int((values > edge).sum())
        style_axes(axes, theme, shown(layer), "number, largest first", "singular value")
        axes.set_title(f"{shape[0]} x {shape[1]}", loc="right", color=theme.muted, fontsize=8.5)
        number = np.arange(1, len(values) + 1)
        before = first[1].get(f"values/{layer}")
        if before is not None and before.shape == values.shape and first[0] < context.step:
            axes.plot(number, before, color=theme.muted, linewidth=1, linestyle=DASHES[2], label=f"step {first[0]:,}")
        axes.plot(number, values, color=theme.cycle[0], linewidth=1.6, label=f"step {context.step:,}",
                  marker="o" if len(values) <= 16 else "", markersize=3)  # fmt: skip
        axes.axhline(edge, color=theme.cycle[1], linestyle=DASHES[1], linewidth=1.3,
                     label=f"noise edge {edge:.3g}: {above} above")  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=8, labelcolor=theme.text)
    for axes in list(places)[len(spectra) :]:
        axes.set_visible(False)
    note = (
        "Noise edge: a matrix of independent entries has no singular values above it, its spread estimated from the "
        "median singular value (Gavish and Donoho 2014). "
    )
    if len(spectra) < collected["of"]:
        note += f"{len(spectra)} of {collected['of']} linear layers, evenly spread"
        note += f"; {collected['large']} left out as too large. " if collected["large"] else ". "
    return finish(figure, theme, f"{context.name}: singular values, step {context.step:,}", note)
