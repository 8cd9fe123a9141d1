"""training_dynamics: how the loss and the other metrics developed, from the journal alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from expkit.journal import is_volatile
from expkit.plots.base import Plot, PlotContext
from expkit.plots.choosing import telling_groups
from expkit.plots.drawing import draw_panels, save_figure
from expkit.plots.journal_curves import JournalCurves
from expkit.plots.panels import LOSSES, make_panels
from expkit.plots.themes import ThemeName

__all__ = ["TrainingPlot"]


class TrainingPlot(Plot):
    """Draws the losses in one panel, and up to three more metrics in panels of their own.

    Each drawing reads what the journal has got since the last one. Where a record holds every step's value (the
    training loss, that is), these are drawn, with their average.

    Args:
        viz_interval, theme: see `Plot`.
    """

    def __init__(self, *, viz_interval: int | Literal["auto"] = "auto", theme: ThemeName = "dark") -> None:
        super().__init__(viz_interval=viz_interval, theme=theme)
        self._journal: JournalCurves | None = None

    def draw(self, context: PlotContext, collected: Any = None) -> list[Path]:  # noqa: ARG002 - there is none
        """Draw training_dynamics_step_N.png; nothing if the journal holds no curve yet."""
        if self._journal is None or self._journal.path != context.journal:
            self._journal = JournalCurves(context.journal, _told)
        curves = self._journal.read(context.step)
        panels = make_panels(telling_groups(curves), curves)
        if not panels:
            return []
        never = [name for name in LOSSES if name in curves and curves[name].bounds() is None]
        note = f"not one finite value: {', '.join(never)}" if never else ""
        figure = draw_panels(f"{context.name}: step {context.step:,}", panels, self.theme, note)
        return [save_figure(figure, context.folder / f"training_dynamics_step_{context.step}.png")]


def _told(name: str) -> bool:
    return not is_volatile(name)  # what the machine does is no training
