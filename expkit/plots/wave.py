"""Pictures of a wave embedding: frequencies, phases, harmonics and wave packets, from the model's tensors alone."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from expkit.plots.base import NOTHING, Plot, PlotContext, PlotSource
from expkit.plots.canvas import DASHES, colour_bar, cyclic, finish, new_figure, sequential, style_axes
from expkit.plots.drawing import save_figure
from expkit.plots.themes import Theme, ThemeName
from expkit.plots.wave_tensors import WaveTensors, collect_waves, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WAVE_PICTURES", "WavePlot", "draw_waves"]

log = logging.getLogger("expkit")

#: What is drawn of them.
WAVE_PICTURES = ("frequencies", "phases", "harmonics", "wave_packets")

_PACKETS = 4
_POINTS = 600
_SHADES = 64


def draw_waves(waves: WaveTensors, folder: Path, step: int, theme: Theme, name: str) -> list[Path]:
    """Draw frequencies, phases, harmonics and wave_packets, each `folder/{which}_step_{step}.png`."""
    figures = dict(zip(WAVE_PICTURES, (_frequencies, _phases, _harmonics, _wave_packets), strict=True))
    return [
        save_figure(draw(waves, theme, f"{name}: {which.replace('_', ' ')}, step {step:,}"),
                    folder / f"{which}_step_{step}.png")
        for which, draw in figures.items()
    ]  # fmt: skip


class WavePlot(Plot):
    """Draws the tensors `frequencies`, `phases` and `amplitudes` of a wave embedding; nothing of another model.

    Args:
        viz_interval, theme: see `Plot`.
    """

    def __init__(self, *, viz_interval: int | Literal["auto"] = "auto", theme: ThemeName = "dark") -> None:
        super().__init__(viz_interval=viz_interval, theme=theme)
        self._said = False

    def collect(self, source: PlotSource) -> Any:
        """Return the wave tensors, or NOTHING without them, which is said once."""
        found = collect_waves(source.model)
        if isinstance(found, WaveTensors):
            return found
        if not self._said:
            self._said = True
            log.warning("plots.wave: %s", found)
        return NOTHING

    def draw(self, context: PlotContext, collected: WaveTensors) -> list[Path]:
        """Draw the four pictures."""
        return draw_waves(collected, context.folder, context.step, self.theme, context.name)


def _frequencies(waves: WaveTensors, theme: Theme, heading: str) -> Figure:
    figure = new_figure(theme, 11, 5.4)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.7, 1])
    axes = figure.add_subplot(grid[:, 0])
    _map(figure, axes, waves, waves.frequencies, theme, "frequency f", {"cmap": sequential(theme)})
    f = _finite(waves.frequencies)
    for place, values, label in ((0, f, "frequency f"), (1, f % 1, "f modulo 1")):
        axes = figure.add_subplot(grid[place, 1])
        style_axes(axes, theme, f"histogram of {label.replace('frequency ', '')}", label, "pairs (token, wave)")
        axes.hist(values, bins=50, range=(0, 1) if place else None, color=theme.cycle[0], alpha=0.85)
    note = (
        "f is identifiable modulo 1 only: harmonics are whole numbers, so f and f + 1 are the same wave. "
        + ("With one harmonic it is not identifiable apart from the phase. " if waves.amplitudes.shape[2] == 1 else "")
        + _of_all(waves)
    )
    return finish(figure, theme, heading, note + _lost(waves.frequencies))


def _phases(waves: WaveTensors, theme: Theme, heading: str) -> Figure:
    from matplotlib import colormaps

    figure = new_figure(theme, 11, 5.4)
    grid = figure.add_gridspec(1, 2, width_ratios=[1.5, 1])
    axes = figure.add_subplot(grid[0, 0])
    angles = np.where(np.isfinite(waves.phases), waves.phases, np.nan) % (2 * math.pi)
    bar = _map(
        figure, axes, waves, angles, theme, "phase φ modulo 2π (radians)",
        {"cmap": cyclic(), "vmin": 0, "vmax": 2 * math.pi},
    )  # fmt: skip
    bar.set_ticks([0, math.pi / 2, math.pi, 1.5 * math.pi, 2 * math.pi], labels=["0", "π/2", "π", "3π/2", "2π"])

    polar: Any = figure.add_subplot(grid[0, 1], projection="polar")
    style_axes(polar, theme)
    polar.set_title("all phases, and the mean of each wave", loc="center", color=theme.text, fontsize=10, pad=16)
    found = _finite(angles)
    counts, edges = np.histogram(found, bins=36, range=(0, 2 * math.pi))
    share = counts / max(1, counts.max())
    middles = (edges[:-1] + edges[1:]) / 2
    colours = colormaps["twilight"](middles / (2 * math.pi))
    # The area of a sector, not its length, is what is seen.
    polar.bar(middles, np.sqrt(share), width=2 * math.pi / 36, color=colours, edgecolor=theme.axes, linewidth=0.5)
    mean = _mean(np.exp(1j * angles))
    polar.plot(np.angle(mean), np.abs(mean), "o", color=theme.text, markersize=4, markeredgecolor=theme.axes)
    polar.set(ylim=(0, 1), yticks=[0.5, 1], yticklabels=["0.5", "1"])
    polar.set_xticks(np.arange(8) * math.pi / 4, labels=["0", "π/4", "π/2", "3π/4", "π", "5π/4", "3π/2", "7π/4"])
    note = (
        "Colours are cyclic: 0 and 2π are the same phase. Sectors: areas as the number of pairs (token, wave). Dots: "
        "for each wave the mean of exp(iφ) over tokens; at 1 all tokens agree, near 0 they are spread. "
    )
    return finish(figure, theme, heading, note + _of_all(waves) + _lost(waves.phases))


def _harmonics(waves: WaveTensors, theme: Theme, heading: str) -> Figure:
    figure = new_figure(theme, 11, 5)
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    sizes = np.where(np.isfinite(waves.amplitudes), np.abs(waves.amplitudes), np.nan)
    count = sizes.shape[2]
    h = np.arange(1, count + 1)
    low, middle, high = np.transpose([_percentiles(sizes[..., place]) for place in range(count)])
    style_axes(left, theme, "size of a harmonic", "harmonic h", "amplitude |a|")
    left.fill_between(h, low, high, color=theme.cycle[0], alpha=0.22, linewidth=0, label="10 to 90 % of the pairs")
    left.plot(h, middle, "o-", color=theme.cycle[0], label="median over tokens and waves")
    left.plot(h, middle[0] / h, color=theme.cycle[1], linestyle=DASHES[1], marker="s", markersize=4,
              label="1/h, from the first median")  # fmt: skip
    left.set_xlim(0.5, count + 0.5)
    left.set_ylim(bottom=0)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False, fontsize=8.5, labelcolor=theme.text)
    style_axes(right, theme, "by wave", "harmonic h", "wave w", grid=False)
    image = right.imshow(
        np.sqrt(_mean(sizes**2)), aspect="auto", origin="lower", cmap=sequential(theme), vmin=0,
        interpolation="nearest", extent=(0.5, count + 0.5, -0.5, waves.of_waves - 0.5),
    )  # fmt: skip
    right.xaxis.get_major_locator().set_params(integer=True)
    colour_bar(figure, image, right, theme, "root mean square of a over tokens")
    note = "The model does not tie amplitudes to 1/h; the dashed line shows what a sawtooth's would be. "
    return finish(figure, theme, heading, note + _of_all(waves) + _lost(waves.amplitudes))


def _wave_packets(waves: WaveTensors, theme: Theme, heading: str) -> Figure:
    places = spread(len(waves.tokens), _PACKETS)
    figure = new_figure(theme, 11, 1.2 + 1.55 * len(places))
    t = np.linspace(0, 4 * math.pi, _POINTS)
    h = np.arange(1, waves.amplitudes.shape[2] + 1)[:, None]
    for axes, place in zip(figure.subplots(len(places), 1, sharex=True, squeeze=False)[:, 0], places, strict=True):
        f, phi, a = waves.frequencies[place], waves.phases[place], waves.amplitudes[place]
        f, phi, a = (np.where(np.isfinite(each), each, np.nan) for each in (f, phi, a))
        packets = np.array([(a[w][:, None] * np.sin(h * f[w] * t + phi[w])).sum(axis=0) for w in range(len(f))])
        largest = np.argsort(-np.abs(packets).max(axis=1))[:3]
        style_axes(axes, theme, waves.labels[place], y="amplitude")
        for number, w in enumerate(largest):
            colour, nth = theme.cycle[(1 + number) % len(theme.cycle)], ("largest", "second", "third")[number]
            axes.plot(t, packets[w], color=colour, linewidth=0.9, alpha=0.8, linestyle=DASHES[1 + number],
                      label=f"its {nth} wave")  # fmt: skip
        axes.plot(t, packets.sum(axis=0), color=theme.cycle[0], linewidth=1.6, label="all waves")
    axes.set_xlabel("t, not a position in the text", color=theme.muted, fontsize=8.5)
    axes.set_xlim(0, t[-1])
    handles, labels = axes.get_legend_handles_labels()
    figure.axes[0].legend(
        handles, labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, fontsize=8,
        labelcolor=theme.text, borderaxespad=0.2,
    )  # fmt: skip
    note = (
        "Illustrative: Σ a sin(h f t + φ) over the harmonics of a token's waves, with the model's own tensors. The "
        "model never computes this signal: it takes sin and cos at 2π h f + φ + t q, and mixes them linearly."
    )
    return finish(figure, theme, heading + " (illustrative)", note)


def _map(
    figure: Figure,
    axes: Any,
    waves: WaveTensors,
    values: npt.NDArray[Any],
    theme: Theme,
    label: str,
    look: dict[str, Any],
) -> Any:
    """Draw values (tokens, waves), and return the colour bar."""
    style_axes(axes, theme, "by token and wave", "wave w", "token", grid=False)
    extent = (-0.5, waves.of_waves - 0.5, waves.of_tokens - 0.5, -0.5)
    image = axes.imshow(values, aspect="auto", interpolation="nearest", extent=extent, **look)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.get_major_locator().set_params(integer=True)
    return colour_bar(figure, image, axes, theme, label)


def _mean(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the mean over tokens of what is a number; NaN where none is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    mean: npt.NDArray[Any] = np.where(count, np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
    return mean


def _percentiles(values: npt.NDArray[Any]) -> list[float]:
    finite = values[np.isfinite(values)]
    return np.percentile(finite, [10, 50, 90]).tolist() if len(finite) else [math.nan] * 3


def _of_all(waves: WaveTensors) -> str:
    tokens, kept = waves.frequencies.shape
    parts = []
    if tokens < waves.of_tokens:
        parts.append(f"{tokens} of {waves.of_tokens:,} tokens")
    if kept < waves.of_waves:
        parts.append(f"{kept} of {waves.of_waves:,} waves")
    return f"Shown: {' and '.join(parts)}, evenly spread. " if parts else ""


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    finite: npt.NDArray[Any] = values[np.isfinite(values)]
    return finite


def _lost(values: npt.NDArray[Any]) -> str:
    count = int(values.size - np.isfinite(values).sum())
    return f"{count:,} of {values.size:,} values are not finite, and left out. " if count else ""
