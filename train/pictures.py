"""When a run's plots are drawn. A plot that fails is said once, and once more when it works again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from expkit.detectors import Detector
from expkit.diagnostics import Diagnostic
from expkit.errors import describe
from expkit.experiment import RunDir
from expkit.files import remove_stale_temporaries
from expkit.plots import NOTHING, Plot, PlotContext, PlotSource
from expkit.plots.drawer import Drawer, Drawn
from expkit.schedule import Every, Progress, auto_intervals
from expkit.trackers import Delivery
from train.runner import Runner

__all__ = ["Pictures"]

log = logging.getLogger("expkit")


class Pictures:
    """Draws each plot on its own interval and at the end, and hands the pictures to the trackers.

    What a plot needs of the model is taken in the training loop; it is drawn in another process. Where drawing takes
    longer than an interval, pictures are left out, but never the last.

    Args:
        plots: name -> plot.
        files: the run directory.
        name: the run's name, for titles.
        total_steps: updates of the whole run, for intervals that are `auto`.
        trackers: get every picture too.
        diagnostics, detectors: of the run, for plots that show what they say.
    """

    def __init__(
        self,
        plots: Mapping[str, Plot],
        files: RunDir,
        name: str,
        total_steps: int,
        trackers: Delivery,
        diagnostics: Mapping[str, Diagnostic] | None = None,
        detectors: Mapping[str, Detector] | None = None,
    ) -> None:
        auto = auto_intervals(total_steps)["plot"]
        self._plots = [
            (plot_name, plot, Every(steps=auto if plot.viz_interval == "auto" else plot.viz_interval))
            for plot_name, plot in plots.items()
        ]
        self._files = files
        self._name = name
        self._trackers = trackers
        self._diagnostics, self._detectors = diagnostics or {}, detectors or {}
        self._failed: dict[str, int] = {}
        self._left_out: dict[str, int] = {}
        self._drawer = Drawer(plots, self._drawn)
        self.latest: dict[str, list[Path]] = {}
        if plots:
            with contextlib.suppress(OSError):
                remove_stale_temporaries(files.visualizations)
            self._drawer.start()

    @property
    def want_gradients(self) -> bool:
        """Whether a plot looks at gradients: `look_ahead` must be asked before each update then."""
        return any(type(plot).before_update is not Plot.before_update for _, plot, _ in self._plots)

    def look_ahead(self, model: nn.Module, ahead: Progress, last: bool) -> Callable[[], None] | None:
        """Return what to call between clipping and the optimizer's step, or None. See `DiagnosticSuite.look_ahead`."""
        due = [
            (name, plot)
            for name, plot, every in self._plots
            if (last or every.due(ahead)) and type(plot).before_update is not Plot.before_update
        ]
        if not due:
            return None

        def before_update() -> None:
            with torch.no_grad():
                for name, plot in due:
                    self._try(name, ahead.step, partial(plot.before_update, model))

        return before_update

    def __call__(self, runner: Runner, last: bool) -> None:
        """Have drawn what is due."""
        due = [(name, plot) for name, plot, every in self._plots if last or every.due(runner.progress)]
        if not due or not runner.dist.is_main:
            return
        step = runner.progress.step
        context = PlotContext(step, self._files.visualizations, self._files.metrics, self._name)
        source = PlotSource(runner.model, runner.task, self._diagnostics, self._detectors)
        with runner.watch.paused():
            runner.model.eval()
            with torch.no_grad():
                for name, plot in due:
                    self._try(name, step, partial(self._submit, name, plot, source, context))
            runner.model.train()

    def finish(self, timeout: float) -> None:
        """Wait until everything is drawn, but not longer than `timeout` seconds."""
        left = self._drawer.finish(timeout)
        if left:
            names = ", ".join(f"plots.{name}" for name in left)
            log.warning("%s: not drawn within %g seconds, given up", names, timeout)
        if self._left_out:
            counts = ", ".join(f"{count} of plots.{name}" for name, count in self._left_out.items())
            log.warning("pictures left out, as drawing takes longer than their intervals: %s", counts)
        self._left_out = {}

    def abandon(self) -> None:
        """Draw nothing more."""
        self._drawer.abandon()

    def _submit(self, name: str, plot: Plot, source: PlotSource, context: PlotContext) -> None:
        collected = plot.collect(source)
        if collected is NOTHING or not self._drawer.submit(name, context, collected):
            return
        if not self._left_out:
            log.warning(
                "plots.%s: the picture before that of step %d is left out, as drawing takes longer than its interval: "
                "choose a longer plots.%s.viz_interval; how many of all are left out is said at the end",
                name, context.step, name,
            )  # fmt: skip
        self._left_out[name] = self._left_out.get(name, 0) + 1

    def _try(self, name: str, step: int, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a picture, of whatever kind, is never worth a run
            self._drawn(Drawn(name, step, [], describe(error)))

    def _drawn(self, drawn: Drawn) -> None:
        name = drawn.plot
        if drawn.error is not None:
            if name not in self._failed:
                log.warning("plots.%s failed at step %d (%s): training goes on", name, drawn.step, drawn.error)
            self._failed[name] = self._failed.get(name, 0) + 1
            return
        if name in self._failed:
            log.warning("plots.%s works again: %d picture(s) were not drawn", name, self._failed.pop(name))
        self.latest[name] = drawn.paths
        for path in drawn.paths:
            self._trackers.image(path.stem.rsplit("_step_", 1)[0], path, drawn.step)
