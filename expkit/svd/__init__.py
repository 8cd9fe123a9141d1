"""Adaptive layers watched: the rules of their switches, their analyses, how far a switch is. Without torch."""

from __future__ import annotations

from expkit.svd.metrics import SVDMetrics
from expkit.svd.monitor import SVDMonitor
from expkit.switch_thresholds import FULL, LOW_RANK, SwitchThresholds

__all__ = ["FULL", "LOW_RANK", "SVDMetrics", "SVDMonitor", "SwitchThresholds"]
