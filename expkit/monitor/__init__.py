"""Looking at a run while it runs: one reader and one model of the screen, behind four faces."""

from expkit.monitor.monitor import TrainingMonitor
from expkit.reading.screen import Screen, View

__all__ = ["Screen", "TrainingMonitor", "View"]
