"""The face that is a picture: PNG, SVG or PDF, without a display."""

from __future__ import annotations

from pathlib import Path

from expkit.errors import UserError
from expkit.monitor.text import heading_line
from expkit.plots.drawing import draw_grid, save_figure
from expkit.plots.themes import ThemeName, find_theme
from expkit.reading.screen import Screen

__all__ = ["KINDS", "save_screen"]

KINDS = (".png", ".svg", ".pdf")
_WIDTH, _ROW = 13.0, 4.2  # inches


def save_screen(screen: Screen, path: Path, theme: ThemeName = "dark") -> Path:
    """Draw a screen into a file, whole or not at all, and return its path.

    Raises:
        UserError: there is nothing to draw yet, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    if path.suffix.lower() not in KINDS:
        raise UserError(f"--output {path}: its name must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if not screen.panels:
        raise UserError(f"{screen.heading}: there is nothing to draw ({'; '.join(screen.notes) or 'no metric'})")
    rows = 1 if len(screen.panels) < 3 else -(-len(screen.panels) // (2 if len(screen.panels) < 5 else 3))
    figure = Figure(figsize=(_WIDTH, 0.6 + _ROW * rows))
    draw_grid(figure, screen.heading, screen.panels, find_theme(theme), heading_line(screen))
    try:
        return save_figure(figure, path)
    except OSError as error:
        raise UserError(f"--output {path}: it cannot be written: {error.strerror}") from None
