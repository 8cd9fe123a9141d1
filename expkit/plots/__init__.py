"""Plots: pictures in a run's visualizations folder."""

from expkit.plots.base import NOTHING, Plot, PlotContext, PlotSource

__all__ = ["NOTHING", "Plot", "PlotContext", "PlotSource"]
