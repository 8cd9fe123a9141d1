"""The task's own pictures of what the model does."""

from __future__ import annotations

from pathlib import Path

from expkit.plots.base import Plot, PlotContext

__all__ = ["SamplesPlot"]


class SamplesPlot(Plot):
    """Saves every figure that `task.figures(model)` returns."""

    def draw(self, context: PlotContext) -> list[Path]:
        """Draw the task's figures; none if the task has no such pictures."""
        made = []
        figures = context.task.figures(context.model) if hasattr(context.task, "figures") else {}
        for name, figure in figures.items():
            path = context.folder / f"{name}_step_{context.step}.png"
            figure.savefig(path, dpi=120)
            made.append(path)
        return made
