"""What tests of pictures share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.figure import Figure

import expkit.plots.gallery
from expkit.errors import describe
from expkit.plots import Plot, PlotContext
from expkit.plots.drawer import Drawn
from expkit.plots.drawing import save_figure


def keep_figures(monkeypatch: pytest.MonkeyPatch, module: ModuleType, save: bool = False) -> list[Figure]:
    """Return a list that gets every figure which `module` saves from now on; without `save` no file is written."""
    kept: list[Figure] = []

    def keep(figure: Figure, path: Path) -> Path:
        kept.append(figure)
        return save_figure(figure, path) if save else path

    monkeypatch.setattr(module, "save_figure", keep)
    return kept


def titles(figure: Figure) -> list[str]:
    """Return the title of each panel."""
    return [axes.get_title("left") for axes in figure.axes]


def is_whole_png(path: Path) -> bool:
    """Whether the file is a picture from its first byte to its last."""
    content = path.read_bytes()
    return content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines that were logged."""
    return [record.getMessage() for record in caplog.records]


class DrawsHere:
    """A drawer that draws at once, in this process: its pictures can be looked at, and no process has to start."""

    def __init__(self, plots: Mapping[str, Plot], done: Callable[[Drawn], object], **settings: Any) -> None:
        self._plots, self._done = plots, done

    def submit(self, plot: str, context: PlotContext, collected: Any) -> bool:
        try:
            paths, error = self._plots[plot].draw(context, collected), None
        except Exception as problem:  # noqa: BLE001 - as the process that draws does
            paths, error = [], describe(problem)
        self._done(Drawn(plot, context.step, paths, error))
        return False

    def finish(self, timeout: float) -> list[str]:
        return []

    wait = finish

    def end(self) -> None:
        """There is nothing to end."""


def draw_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pictures drawn at once, in this process."""
    monkeypatch.setattr(expkit.plots.gallery, "Drawer", DrawsHere)
