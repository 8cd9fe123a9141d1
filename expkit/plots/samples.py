"""The task's own pictures of what the model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expkit.plots.base import NOTHING, Plot, PlotContext, PlotSource
from expkit.plots.canvas import restyle
from expkit.plots.drawing import save_figure

__all__ = ["SamplesPlot"]


class SamplesPlot(Plot):
    """Saves every figure that `task.figures(model)` returns, or tells how to draw, in the colours of the theme."""

    def collect(self, source: PlotSource) -> Any:
        """Return the task's figures by name, or NOTHING if it has no such pictures."""
        figures = source.task.figures(source.model) if hasattr(source.task, "figures") else {}
        return dict(figures) or NOTHING

    def draw(self, context: PlotContext, collected: dict[str, Any]) -> list[Path]:
        """Save the figures."""
        return [
            save_figure(
                restyle(each() if callable(each) else each, self.theme),
                context.folder / f"{name}_step_{context.step}.png",
            )
            for name, each in collected.items()
        ]
