"""When a run's plots are drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from expkit.detectors import Detector
from expkit.diagnostics import Diagnostic
from expkit.dist import Control
from expkit.experiment import RunDir
from expkit.files import remove_stale_temporaries
from expkit.plots import NOTHING, Plot, PlotContext, PlotSource
from expkit.plots.earlier import forget_after
from expkit.plots.gallery import Gallery
from expkit.schedule import Progress
from expkit.trackers import Delivery
from train.cadence import Cadence
from train.runner import Runner

__all__ = ["Pictures", "is_whole"]

#: Seconds that looking at the model may take where a run is stopped.
_AT_A_STOP = 5.0


class Pictures:
    """Draws each plot on its own interval, at the end and where the run is stopped; trackers get the pictures too.

    What a plot needs of the model is taken in the training loop; it is drawn in another process. Where drawing takes
    longer than an interval, pictures are left out, but never the last. Rank 0 draws; a model that is sharded it has
    whole once all ranks have been asked for it.

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
        self._plots = plots
        self._cadence = Cadence(plots, total_steps)
        self._files = files
        self._name = name
        self._diagnostics, self._detectors = diagnostics or {}, detectors or {}
        self._gallery = Gallery(plots, trackers)
        self._begun = False
        self._put_off: list[str] = []
        if plots:
            with contextlib.suppress(OSError):
                remove_stale_temporaries(files.visualizations)
            self._gallery.start()

    @property
    def latest(self) -> Mapping[str, list[Path]]:
        """The last pictures of each plot."""
        return self._gallery.latest

    @property
    def want_gradients(self) -> bool:
        """Whether a plot looks at gradients: `look_ahead` must be asked before each update then."""
        return any(type(plot).before_update is not Plot.before_update for plot in self._plots.values())

    def look_ahead(self, model: nn.Module, ahead: Progress, last: bool) -> Callable[[], None] | None:
        """Return what to call between clipping and the optimizer's step, or None. See `DiagnosticSuite.look_ahead`."""
        names = list(self._plots) if last else self._cadence.due(ahead)
        due = {name: self._plots[name] for name in names}
        due = {name: plot for name, plot in due.items() if type(plot).before_update is not Plot.before_update}
        if not due:
            return None

        def before_update() -> None:
            with torch.no_grad():
                for name, plot in due.items():
                    with self._cadence.timed(name):
                        self._try(name, ahead.step, partial(plot.before_update, model))

        return before_update

    def __call__(self, runner: Runner, last: bool) -> None:
        """Have drawn what is due."""
        step = runner.progress.step
        if self._plots and not self._begun:
            self._begun = True
            forget_after(self._files.visualizations, step - 1)  # what was drawn before the run went back to there
        due = list(self._plots) if last else self._cadence.due(runner.progress)
        if last and not runner.done:  # what stops it may not wait
            due = self._cadence.quick(due, _AT_A_STOP)
        if runner.strategy.is_sharded:
            self._put_off, due = [], list(dict.fromkeys(self._put_off + due))
            if due and not is_whole(runner, last):
                self._put_off = due
                runner.control.request(Control.PLOT)
                return
        if not due and not is_whole(runner, last):
            return
        context = PlotContext(step, self._files.visualizations, self._files.metrics, self._name)
        with runner.watch.paused(), runner.strategy.whole(runner.model) as model:
            source = PlotSource(model, runner.task, self._diagnostics, self._detectors)
            if runner.update.device.type == "cuda":
                torch.cuda.synchronize(runner.update.device)  # what a plot waits for first is training's
            model.eval()
            with torch.no_grad():
                for name in due:
                    with self._cadence.timed(name):
                        self._try(name, step, partial(self._submit, name, self._plots[name], source, context))
            model.train()
        self._cadence.note(due, None if runner.config.deterministic else runner.config.diagnostics_budget)

    def finish(self, timeout: float) -> None:
        """Wait until everything is drawn, but not longer than `timeout` seconds."""
        self._gallery.finish(timeout)

    def abandon(self) -> None:
        """Draw nothing more."""
        self._gallery.abandon()

    def _submit(self, name: str, plot: Plot, source: PlotSource, context: PlotContext) -> None:
        collected = plot.collect(source)
        if collected is not NOTHING:
            self._gallery.submit(name, context, collected)

    def _try(self, name: str, step: int, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a picture, of whatever kind, is never worth a run
            self._gallery.fail(name, step, error)


def is_whole(runner: Runner, last: bool) -> bool:
    """Whether all ranks put a sharded model together at this step, for plots: at the `last`, and where it was asked."""
    return runner.strategy.is_sharded and (last or bool(runner.actions & Control.PLOT))
