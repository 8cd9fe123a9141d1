"""The monitor for a program of one's own: runs, and a picture or a window of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from expkit.monitor.runs import Runs
from expkit.plots.themes import ThemeName

__all__ = ["TrainingMonitor"]

_PICTURE_BINS = 1000


class TrainingMonitor(Runs):
    """Looks at one run or several: curves, alerts, how they stand. It reads only, and only what is new.

    Args:
        run: a run directory, or several. What is to be seen of it need not be there yet.
        view: what is to be seen; see `View`.
        index: whether a sidecar index of each journal is used and kept (`logs/metrics.index.npz`).

    Raises:
        UserError: (a ValueError) there is no such directory.
    """

    def generate_static_plot(self, path: Path | str, theme: ThemeName = "dark") -> Path:
        """Draw what is to be seen now into a file: PNG, or SVG or PDF by its name. Return its path.

        Raises:
            UserError: (a ValueError) there is nothing to draw yet, or the file cannot be written.
            OSError: files of a run are there, and cannot be read.
        """
        from expkit.monitor.static import save_screen

        self.refresh()
        return save_screen(self.screen(replace(self.view, bins=self.view.bins or _PICTURE_BINS)), Path(path), theme)

    def start_live_plot(self, refresh_interval: float = 5, theme: ThemeName = "dark") -> None:
        """Show a window that follows the runs, until it is closed or Ctrl-C.

        Args:
            refresh_interval: seconds between two looks.
            theme: dark, light or print.

        Raises:
            UserError: (a ValueError) there is no display, or nothing that could open a window on it.
        """
        from expkit.monitor.window import show_window

        show_window(self, refresh_interval, theme)
