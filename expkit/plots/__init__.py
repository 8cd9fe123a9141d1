"""Plots: pictures in a run's visualizations folder."""

from expkit.plots.base import Plot, PlotContext

__all__ = ["Plot", "PlotContext"]
