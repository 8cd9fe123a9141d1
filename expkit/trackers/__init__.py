"""Trackers: copies of the journal in wandb, trackio and the like, delivered without holding up training."""

from __future__ import annotations

from expkit.trackers.base import Alert, RunInfo, Tracker
from expkit.trackers.delivery import Delivery

__all__ = ["Alert", "Delivery", "RunInfo", "Tracker"]
