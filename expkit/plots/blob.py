"""blob: the density of the weight pairs (W1[i, j], W2[j, i]) with their clusters, and how it came about."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from expkit.plots.base import NOTHING, Plot, PlotContext, PlotSource
from expkit.plots.canvas import finish, new_figure, style_axes
from expkit.plots.drawing import save_figure
from expkit.plots.earlier import Earlier
from expkit.plots.journal_curves import JournalCurves
from expkit.plots.themes import Theme, ThemeName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BlobPlot", "PairDensity"]

log = logging.getLogger("expkit")

_CELLS = 160  # along an axis
_SMALL = 4  # of these make one of an earlier picture
_KINDS = 6  # the noise, and up to five clusters
_EARLIER = 5  # pictures in the strip
_KEPT = 40  # from which they are chosen
_NAMES = ("weight_correlation", "n_clusters_dbscan", "silhouette_score")
_CENTRES = "blob/cluster_centers"


@dataclass(frozen=True, slots=True)
class PairDensity:
    """How many pairs there are where, in weight units.

    Attributes:
        counts: (6, cells, cells): of the noise, then of the five largest clusters; [., row, column] with the decoder's
            weight by row, the encoder's by column.
        extent: (least, greatest) of the encoder's weights, then of the decoder's.
        centres: [encoder, decoder] of the largest clusters.
        metrics: those of diagnostics.blob that are written beside it.
        noise, pairs: how many there are.
    """

    counts: npt.NDArray[np.int32]
    extent: tuple[float, float, float, float]
    centres: list[list[float]]
    metrics: dict[str, float]
    noise: int
    pairs: int

    def coarser(self) -> dict[str, npt.NDArray[Any]]:
        """Return counts in cells four times as wide, (6, cells / 4, cells / 4), and their extent."""
        side = self.counts.shape[1] // _SMALL
        counts = self.counts.reshape(len(self.counts), side, _SMALL, side, _SMALL).sum(axis=(2, 4), dtype=np.int32)
        return {"counts": counts, "extent": np.array(self.extent)}


class BlobPlot(Plot):
    """Draws the density of a two-layer network's weight pairs, coloured by cluster, now and earlier.

    The clusters are those of `diagnostics=blob` as it is configured, or else with its defaults. Where that is on, the
    centres of the clusters over all of training are drawn too.

    Args:
        viz_interval, theme: see `Plot`.
    """

    def __init__(self, *, viz_interval: int | Literal["auto"] = "auto", theme: ThemeName = "dark") -> None:
        super().__init__(viz_interval=viz_interval, theme=theme)
        self._said = False
        self._journal: JournalCurves | None = None

    def collect(self, source: PlotSource) -> Any:
        """Return the density of all pairs, counted on their device, or NOTHING without such weights: said once."""
        from expkit.diagnostics.blob import BlobDiagnostic
        from expkit.errors import ConfigError

        known = source.diagnostics.get("blob")
        diagnostic = known if isinstance(known, BlobDiagnostic) else BlobDiagnostic()
        try:
            return _density(source.model, diagnostic)
        except ConfigError as error:
            if not self._said:
                self._said = True
                log.warning("plots.blob: nothing is drawn: %s", error)
            return NOTHING

    def draw(self, context: PlotContext, collected: PairDensity) -> list[Path]:
        """Draw blob_step_N.png."""
        if self._journal is None or self._journal.path != context.journal:
            self._journal = JournalCurves(context.journal, wanted=lambda _: False, structured=_CENTRES)
        self._journal.read(context.step)
        earlier = Earlier(context.folder, "blob", _KEPT)
        shown = [(step, each) for step in _spread(earlier.steps(context.step)) if (each := _fits(earlier.load(step)))]
        figure = _draw(context, collected, shown, self._journal.found, self.theme)
        earlier.keep(context.step, collected.coarser())
        return [save_figure(figure, context.folder / f"blob_step_{context.step}.png")]


def _density(model: Any, diagnostic: Any) -> PairDensity:
    import torch

    from expkit.diagnostics._weights import find_weights

    encoder, decoder = find_weights(model, diagnostic.encoder, diagnostic.decoder)
    metrics, clusters = diagnostic.measure_pair(encoder, decoder)
    points, labels = diagnostic.pairs(encoder, decoder), clusters.labels
    finite = torch.isfinite(points).all(dim=0)
    points, labels = points[:, finite], labels[finite]
    if not points.shape[1]:
        points, labels = points.new_zeros(2, 1), labels.new_full((1,), -1)
    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)
    room = torch.where(high > low, 0.02 * (high - low), 0.5)
    low, high = low - room, high + room
    column, row = ((points - low) / (high - low) * _CELLS).long().clamp(0, _CELLS - 1)
    kind = labels.clamp(max=_KINDS - 2) + 1
    counts = torch.bincount((kind * _CELLS + row) * _CELLS + column, minlength=_KINDS * _CELLS**2)
    table = counts.reshape(_KINDS, _CELLS, _CELLS).to(torch.int32).cpu().numpy()
    extent = torch.cat([low, high], dim=1).flatten().tolist()
    named = {name: float(metrics[name]) for name in _NAMES}
    return PairDensity(
        table, (extent[0], extent[1], extent[2], extent[3]), metrics["cluster_centers"], named,
        int(metrics["n_noise_points"]), int(metrics["n_pairs_analyzed"]),
    )  # fmt: skip


def _draw(
    context: PlotContext,
    density: PairDensity,
    earlier: Sequence[tuple[int, Mapping[str, npt.NDArray[Any]]]],
    centres: list[tuple[int, Any]],
    theme: Theme,
) -> Figure:
    rows = 1 + bool(earlier)
    figure = new_figure(theme, 11, 5.6 + 2.1 * bool(earlier))
    grid = figure.add_gridspec(rows, 1, height_ratios=[5, 2.1][:rows])
    top = grid[0].subgridspec(2, 2, width_ratios=[1.75, 1])
    axes = figure.add_subplot(top[:, 0])
    style_axes(axes, theme, "", "encoder weight W1[i, j]", "decoder weight W2[j, i]")
    _paint(axes, density.counts, density.extent, theme)
    _mark(axes, density, theme)
    _legend(axes, density, theme)
    for number, what in enumerate(("encoder", "decoder")):
        beside = figure.add_subplot(top[number, 1])
        style_axes(beside, theme, f"cluster centres: {what}", "step", f"{what} weight")
        _trace(beside, centres, number, theme)
        if centres:
            beside.set_ylim(density.extent[2 * number], density.extent[2 * number + 1])
    if earlier:
        strip = grid[1].subgridspec(1, _EARLIER)
        extents = np.array([each["extent"] for _, each in earlier] + [density.extent])
        limits = extents[:, ::2].min(axis=0), extents[:, 1::2].max(axis=0)
        for place, (step, each) in enumerate(earlier):
            small = figure.add_subplot(strip[place])
            style_axes(small, theme, f"step {step:,}", grid=False)
            small.set(xlim=(limits[0][0], limits[1][0]), ylim=(limits[0][1], limits[1][1]))
            small.tick_params(labelsize=7, labelleft=place == 0)
            _paint(small, each["counts"], each["extent"], theme)
    named = density.metrics
    silhouette, clusters = named["silhouette_score"], int(named["n_clusters_dbscan"])
    note = (
        f"{density.pairs:,} pairs, correlation {named['weight_correlation']:.3f}, "
        f"{clusters} cluster{'s' * (clusters != 1)}, silhouette "
        f"{'undefined' if np.isnan(silhouette) else format(silhouette, '.3f')}. Stronger colour: more pairs, on a "
        "logarithmic scale. "
        + ("Below: earlier, all on the same axes." if earlier else "")
        + ("" if centres else " The centres over training come from the journal: diagnostics=blob.")
    )
    return finish(figure, theme, f"{context.name}: weight pairs, step {context.step:,}", note)


def _paint(axes: Any, by_kind: npt.NDArray[Any], extent: Sequence[float] | npt.NDArray[Any], theme: Theme) -> None:
    """Colour each cell as the kind that most of its pairs are of, the stronger the more there are."""
    from matplotlib.colors import to_rgb

    counts = by_kind.sum(axis=0)
    kind = np.where(counts > by_kind[0], by_kind[1:].argmax(axis=0) + 1, 0)
    colours = np.array([to_rgb(colour) for colour in _colours(theme)])[kind]
    strength = (0.3 + 0.7 * np.log1p(counts) / np.log1p(max(1, counts.max())))[..., None]
    paint = strength * colours + (1 - strength) * np.array(to_rgb(theme.axes))
    shade = np.dstack([paint, (counts > 0).astype(float)])
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(shade, origin="lower", extent=tuple(extent), aspect="auto", interpolation="nearest", zorder=2)
    axes.set(xlim=limits[0], ylim=limits[1]) if limits != ((0, 1), (0, 1)) else None


def _mark(axes: Any, density: PairDensity, theme: Theme) -> None:
    for number, (x, y) in enumerate(density.centres, 1):
        axes.plot(x, y, "+", color=theme.text, markersize=9, zorder=3)
        axes.annotate(
            str(number), (x, y), (7, 5), textcoords="offset points", color=theme.text, fontsize=11, fontweight="bold",
            zorder=4, bbox={"facecolor": theme.axes, "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )  # fmt: skip


def _legend(axes: Any, density: PairDensity, theme: Theme) -> None:
    from matplotlib.patches import Patch

    colours, sizes = _colours(theme), density.counts.sum(axis=(1, 2))
    clusters = int(density.metrics["n_clusters_dbscan"])
    handles = []
    for kind in range(1, _KINDS):
        if sizes[kind]:
            name = f"cluster {kind}" if kind < _KINDS - 1 or clusters < _KINDS else f"clusters {kind} to {clusters}"
            handles.append(Patch(color=colours[kind], label=f"{name}: {_share(sizes[kind], density.pairs)}"))
    noise = f"noise: {density.noise:,} pairs, {_share(density.noise, density.pairs)}"
    handles.append(Patch(color=colours[0], label=noise))
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=8.5,
        labelcolor=theme.text, borderaxespad=0.3,
    )  # fmt: skip


def _trace(axes: Any, centres: list[tuple[int, Any]], number: int, theme: Theme) -> None:
    """Draw one coordinate of the largest clusters' centres over training."""
    most = max((len(found) for _, found in centres), default=0)
    colours = _colours(theme)
    for place in range(most):
        seen = [(step, found[place][number]) for step, found in centres if len(found) > place]
        steps, values = zip(*seen, strict=True)
        axes.plot(
            steps, values, color=colours[1 + place], linestyle="" if place else "-", marker="osD"[place % 3],
            markersize=3,
        )  # fmt: skip
    if not centres:
        axes.text(
            0.5, 0.5, "diagnostics=blob\nputs them into the journal", transform=axes.transAxes, ha="center",
            va="center", color=theme.muted, fontsize=9,
        )  # fmt: skip
        axes.set(xticks=[], yticks=[])
        return
    axes.xaxis.get_major_locator().set_params(integer=True)


def _colours(theme: Theme) -> list[str]:
    """Return the colours of the noise and of the clusters, the largest first."""
    if theme.dashed:
        return ["#b8b8b8", "#000000", "#4a4a4a", "#777777", "#2a2a2a", "#606060"]
    return [theme.muted, *theme.cycle[: _KINDS - 1]]


def _share(count: int, of: int) -> str:
    return f"{100 * count / max(1, of):.3g} %"


def _fits(kept: dict[str, npt.NDArray[Any]] | None) -> dict[str, npt.NDArray[Any]] | None:
    """Return what was kept of an earlier drawing, unless it is damaged."""
    shapes = {name: each.shape for name, each in (kept or {}).items()}
    return kept if shapes == {"counts": (_KINDS, *(_CELLS // _SMALL,) * 2), "extent": (4,)} else None


def _spread(earlier: list[int]) -> list[int]:
    """Return up to five, evenly spread, the first and the last among them."""
    if len(earlier) <= _EARLIER:
        return earlier
    return [earlier[round(place * (len(earlier) - 1) / (_EARLIER - 1))] for place in range(_EARLIER)]
