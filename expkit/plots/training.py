"""training_dynamics: how the loss and the other metrics developed, from the journal alone."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from expkit.files import remove_stale_temporaries
from expkit.journal import JournalReader, is_volatile
from expkit.plots.base import Plot, PlotContext
from expkit.plots.choosing import telling_groups
from expkit.plots.curve import Curve
from expkit.plots.drawing import ThemeName, draw_panels, find_theme, save_figure
from expkit.plots.panels import LOSSES, make_panels
from expkit.record import RESERVED

__all__ = ["TrainingPlot"]


class TrainingPlot(Plot):
    """Draws the losses in one panel, and up to three more metrics in panels of their own.

    Each drawing reads what the journal has got since the last one. Where a record holds every step's value (the
    training loss, that is), these are drawn, with their average.

    Args:
        viz_interval: see `Plot`.
        theme: dark or light.

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(self, viz_interval: int | Literal["auto"] = "auto", theme: ThemeName = "dark") -> None:
        super().__init__(viz_interval)
        self._theme = find_theme(theme)
        self._journal: _JournalCurves | None = None

    def draw(self, context: PlotContext) -> list[Path]:
        """Draw training_dynamics_step_N.png; nothing if the journal holds no curve yet."""
        if self._journal is None or self._journal.path != context.journal:
            self._journal = _JournalCurves(context.journal)
            if context.folder.is_dir():
                remove_stale_temporaries(context.folder, prefix="training_dynamics_")
        curves = self._journal.read()
        panels = make_panels(telling_groups(curves), curves)
        if not panels:
            return []
        never = [name for name in LOSSES if name in curves and curves[name].bounds() is None]
        note = f"not one finite value: {', '.join(never)}" if never else ""
        figure = draw_panels(f"{context.name}: step {context.step:,}", panels, self._theme, note)
        return [save_figure(figure, context.folder / f"training_dynamics_step_{context.step}.png")]


class _JournalCurves:
    """The curves of a journal, in bounded memory, read on from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = JournalReader(path)
        self._generation = 0
        self._curves: dict[str, Curve] = {}
        weakref.finalize(self, self._reader.close)  # plots have no end of their own

    def read(self) -> Mapping[str, Curve]:
        for entry in self._reader:
            self._clear_if_anew()
            self._take(entry)
        self._clear_if_anew()  # the journal may have been cut back to nothing
        return self._curves

    def _take(self, entry: Mapping[str, Any]) -> None:
        step, series = entry["step"], entry.get("series", {})
        for name, values in series.items():  # one value for each step up to this one
            self._curves.setdefault(name, Curve()).extend(range(step - len(values) + 1, step + 1), values)
        for name, value in entry.items():
            known = name in RESERVED or name in series or is_volatile(name)  # what the machine does is no training
            if not known and isinstance(value, int | float):
                self._curves.setdefault(name, Curve()).extend((step,), (value,))

    def _clear_if_anew(self) -> None:
        if self._reader.generation != self._generation:
            self._generation = self._reader.generation
            self._curves = {}
