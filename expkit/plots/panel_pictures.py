"""Pictures of curves that have been collected where they are known: those of `VisualizationManager`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expkit.plots.base import Plot, PlotContext
from expkit.plots.drawing import draw_panels, save_figure
from expkit.plots.panels import Panel

__all__ = ["PanelPicture", "PanelPlot"]


@dataclass(frozen=True, slots=True)
class PanelPicture:
    """A picture to be drawn.

    Attributes:
        file: its name.
        heading, panels, note, shared_legend: see `draw_panels`.
    """

    file: str
    heading: str
    panels: Sequence[Panel]
    note: str = ""
    shared_legend: bool = False


class PanelPlot(Plot):
    """Draws panels.

    Args:
        viz_interval, theme: see `Plot`.
    """

    def draw(self, context: PlotContext, collected: Sequence[PanelPicture]) -> list[Path]:
        """Draw each of the pictures collected."""
        return [
            save_figure(
                draw_panels(each.heading, each.panels, self.theme, each.note, each.shared_legend),
                context.folder / each.file,
            )
            for each in collected
        ]
