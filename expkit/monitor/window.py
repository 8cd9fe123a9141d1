"""The face that is a window: live matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expkit.errors import UserError
from expkit.plots.drawing import ThemeName

if TYPE_CHECKING:
    from expkit.monitor.monitor import TrainingMonitor

__all__ = ["can_open", "show_window"]


def can_open() -> bool:
    """Whether a window can be opened here."""
    return False


def show_window(monitor: TrainingMonitor, interval: float, theme: ThemeName) -> None:  # noqa: ARG001
    """Show a window until it is closed."""
    raise UserError("window: not there yet")
