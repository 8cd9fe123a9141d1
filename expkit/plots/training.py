"""training_dynamics: how the loss and the other metrics developed, from the journal alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expkit.journal import JournalReader
from expkit.plots.base import Plot, PlotContext
from expkit.record import RESERVED

__all__ = ["TrainingPlot", "decimate"]

_POINTS = 2000
_LOSSES = ("train_loss", "loss", "val_loss")
_UNINTERESTING = ("samples", "memory_allocated_mb")


class TrainingPlot(Plot):
    """Draws the losses in one panel, and up to three more metrics in panels of their own."""

    def draw(self, context: PlotContext) -> list[Path]:
        """Draw training_dynamics_step_N.png; nothing if the journal holds no curve yet."""
        curves = _curves(context.journal)
        others = [name for name in curves if name not in _LOSSES and len(set(curves[name][1])) > 1]
        others = [name for name in others if all(curves[name] != curves[loss] for loss in _LOSSES if loss in curves)]
        losses = [name for name in _LOSSES if name in curves]
        panels = [names for names in (losses, *([name] for name in _most_telling(others))) if names]
        if not panels:
            return []
        from matplotlib.figure import Figure

        columns = 2 if len(panels) > 1 else 1
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(5.5 * columns, 3.2 * rows), layout="constrained")
        figure.suptitle(f"{context.name}: step {context.step}", fontsize=11)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, names in zip(axes, panels, strict=False):
            for name in names:
                axis.plot(*decimate(*curves[name]), label=name, linewidth=1.3)
            values = [value for name in names for value in curves[name][1]]
            if names[0] in _LOSSES and min(values) > 0 and max(values) > 20 * min(values):
                axis.set_yscale("log")
            axis.set_xlabel("step")
            axis.legend(frameon=False, fontsize=9)
            axis.grid(alpha=0.25)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        path = context.folder / f"training_dynamics_step_{context.step}.png"
        figure.savefig(path, dpi=120)
        return [path]


def decimate(steps: Sequence[int], values: Sequence[float], points: int = _POINTS) -> tuple[list[int], list[float]]:
    """Return at most about `points` of a curve: the least and the greatest of each bin, so that spikes stay."""
    if len(steps) <= points:
        return list(steps), list(values)
    size = -(-2 * len(steps) // points)
    kept: list[int] = []
    for start in range(0, len(values), size):
        chunk = range(start, min(start + size, len(values)))
        kept += sorted({min(chunk, key=values.__getitem__), max(chunk, key=values.__getitem__)})
    return [steps[index] for index in kept], [values[index] for index in kept]


def _curves(journal: Path) -> dict[str, tuple[list[int], list[float]]]:
    curves: dict[str, tuple[list[int], list[float]]] = {}
    with JournalReader(journal) as reader:
        for entry in reader:
            for name, value in entry.items():
                if name not in RESERVED and isinstance(value, int | float) and value == value:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(entry["step"])
                    values.append(value)
    return curves


def _most_telling(names: Sequence[str]) -> list[str]:
    """Return up to three metrics worth a panel: what is validated before speeds, the learning rate in any case."""

    def rank(name: str) -> tuple[int, str]:
        order = ("val_", "blob/weight", "blob/", "gradient_norm", "train_")
        place = next((index for index, prefix in enumerate(order) if name.startswith(prefix)), len(order))
        return place, name

    wanted = sorted((name for name in names if name not in (*_UNINTERESTING, "learning_rate")), key=rank)
    dull = ("loss_on", "loss_off", "scaled_loss", "_per_sec", "_time_ms")
    telling = [name for name in wanted if not name.endswith(dull)]
    return [*telling[:2], "learning_rate"] if "learning_rate" in names else telling[:3]
