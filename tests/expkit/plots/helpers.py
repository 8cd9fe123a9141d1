"""What tests of pictures share."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from matplotlib.figure import Figure

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
