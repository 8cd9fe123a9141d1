"""When a run's plots are drawn. A plot that fails is said once, and once more when it works again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from expkit.experiment import RunDir
from expkit.plots import Plot, PlotContext
from expkit.schedule import Every, auto_intervals
from expkit.trackers import Delivery
from train.runner import Runner

__all__ = ["Pictures"]

log = logging.getLogger("expkit")


class Pictures:
    """Draws each plot on its own interval and at the end, and hands the pictures to the trackers.

    Args:
        plots: name -> plot.
        files: the run directory.
        name: the run's name, for titles.
        total_steps: updates of the whole run, for intervals that are `auto`.
        trackers: get every picture too.
    """

    def __init__(
        self, plots: Mapping[str, Plot], files: RunDir, name: str, total_steps: int, trackers: Delivery
    ) -> None:
        auto = auto_intervals(total_steps)["plot"]
        self._plots = [
            (plot_name, plot, Every(steps=auto if plot.viz_interval == "auto" else plot.viz_interval))
            for plot_name, plot in plots.items()
        ]
        self._files = files
        self._name = name
        self._trackers = trackers
        self._failed: dict[str, int] = {}
        self.latest: dict[str, list[Path]] = {}

    def __call__(self, runner: Runner, last: bool) -> None:
        """Draw what is due."""
        due = [(name, plot) for name, plot, every in self._plots if last or every.due(runner.progress)]
        if not due:
            return
        context = PlotContext(
            step=runner.progress.step,
            folder=self._files.visualizations,
            journal=self._files.metrics,
            model=runner.model,
            task=runner.task,
            name=self._name,
        )
        runner.model.eval()
        with runner.watch.paused(), torch.no_grad():
            for name, plot in due:
                self._draw(name, plot, context)
        runner.model.train()

    def _draw(self, name: str, plot: Plot, context: PlotContext) -> None:
        try:
            self.latest[name] = list(plot.draw(context))
        except Exception as error:  # noqa: BLE001 - a picture, of whatever kind, is never worth a run
            if name not in self._failed:
                what = f"{type(error).__name__}: {error}"
                log.warning("plots.%s failed at step %d (%s): training goes on", name, context.step, what)
            self._failed[name] = self._failed.get(name, 0) + 1
            return
        if name in self._failed:
            log.warning("plots.%s works again: %d picture(s) were not drawn", name, self._failed.pop(name))
        for path in self.latest[name]:
            self._trackers.image(path.stem.rsplit("_step_", 1)[0], path, context.step)
