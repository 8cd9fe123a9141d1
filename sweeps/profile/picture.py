"""The picture of a profile: throughput and memory against batch size, the recommended size marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expkit.plots.themes import Theme, find_theme
from sweeps.profile.choose import ENOUGH, MOST_MEMORY
from sweeps.profile.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]


def draw(report: Report, theme: str = "light") -> Figure:
    """Draw a report."""
    from matplotlib.figure import Figure

    colours = find_theme(theme)
    figure = Figure(figsize=(8.6, 6.4), layout="constrained", facecolor=colours.figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    figure.suptitle(f"Batch size profile: {report.title}", color=colours.text, fontsize=12)
    for axes in (upper, lower):
        _dress(axes, colours)
    _throughput(upper, report, colours)
    _memory(lower, report, colours)
    sizes = [each.batch_size for each in report.profiles]
    lower.set_xlabel("batch size (samples per update)")
    if sizes:
        lower.set_xscale("log", base=2)
        lower.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30 if len(sizes) > 8 else 0)
        lower.set_xticks([], minor=True)
        lower.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
    for each in report.profiles:
        if not each.ok:
            for axes in (upper, lower):
                axes.axvline(each.batch_size, color=colours.alert, linewidth=1, linestyle=":", zorder=1)
            place: Any = upper.get_xaxis_transform()
            style: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "center", "fontsize": 9}
            upper.text(each.batch_size, 0.5, f"{each.status} ", transform=place, color=colours.alert, **style)
    return figure


def _throughput(axes: Axes, report: Report, theme: Theme) -> None:
    measured = [each for each in report.profiles if each.ok and each.samples_per_second and each.step_time]
    axes.set_ylabel("samples per second")
    if not measured:
        axes.text(0.5, 0.5, "no size was measured to the end", transform=axes.transAxes, ha="center", color=theme.muted)
        return
    sizes = [each.batch_size for each in measured]
    rates = [each.samples_per_second or 0.0 for each in measured]
    axes.plot(sizes, rates, color=theme.cycle[0], marker="o", linewidth=1.8)
    for each in measured:  # what half of the blocks lie within
        step, half = each.step_time or 0.0, (each.step_time_iqr or 0.0) / 2
        ends = [each.batch_size / (step + half), each.batch_size / max(step - half, step / 2)]
        axes.plot([each.batch_size] * 2, ends, color=theme.cycle[0], linewidth=5, alpha=0.25, solid_capstyle="butt")
    line: dict[str, Any] = {"color": theme.muted, "linewidth": 1, "linestyle": "--"}
    axes.axhline(ENOUGH * max(rates), label=f"{100 * ENOUGH:.0f} % of the best", **line)
    axes.set_ylim(0, 1.25 * max(rates))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    chosen = report.chosen
    if chosen is not None:
        place = (chosen.batch_size, chosen.samples_per_second or 0.0)
        axes.plot(*place, label="recommended", **_ring(theme))
        style: dict[str, Any] = {
            "textcoords": "offset points",
            "ha": "center",
            "color": theme.cycle[1],
            "weight": "bold",
        }
        axes.annotate(f"{chosen.batch_size:,}", place, (0, -24), **style)
    _legend(axes, theme)


def _memory(axes: Axes, report: Report, theme: Theme) -> None:
    measured = [each for each in report.profiles if each.ok and each.memory_gb is not None]
    gpu = any(each.gpu_memory_gb is not None for each in measured)
    axes.set_ylabel("GPU memory (GB)" if gpu else "peak resident set (GB)")
    if not measured:
        return
    taken = [each.memory_gb or 0.0 for each in measured]
    axes.plot([each.batch_size for each in measured], taken, color=theme.cycle[2], marker="o", linewidth=1.8)
    total = next((each.memory_total_gb for each in measured if each.memory_total_gb), None)
    top = max(taken)
    if total is not None and max(taken) > 0.2 * total:
        style: dict[str, Any] = {"linewidth": 1, "linestyle": "--"}
        axes.axhline(total, color=theme.alert, label=f"there are {total:.1f} GB", **style)
        axes.axhline(MOST_MEMORY * total, color=theme.muted, label=f"{100 * MOST_MEMORY:.0f} % of it", **style)
        _legend(axes, theme)
        top = max(top, total)
    axes.set_ylim(0, 1.15 * top)
    chosen = report.chosen
    if chosen is not None and chosen.memory_gb is not None:
        axes.plot(chosen.batch_size, chosen.memory_gb, **_ring(theme))


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.axes)
    axes.tick_params(colors=theme.muted, labelcolor=theme.text)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(theme.text)
    axes.yaxis.label.set_color(theme.text)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)


def _ring(theme: Theme) -> dict[str, Any]:
    """Return how the recommended size is marked."""
    ring: dict[str, Any] = {"marker": "o", "markersize": 14, "fillstyle": "none", "markeredgewidth": 2.2}
    return {**ring, "color": theme.cycle[1], "linestyle": ""}


def _legend(axes: Axes, theme: Theme) -> None:
    """Say above the axes what is what: inside it might hide something."""
    style: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "ncols": 3}
    axes.legend(frameon=False, labelcolor=theme.text, fontsize=9, markerscale=0.6, **style)
