"""VisualizationManager: pictures of training in somebody's own training loop, in two lines."""

from __future__ import annotations

import atexit
import logging
import operator
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expkit.errors import UserError, describe
from expkit.files import remove_stale_temporaries
from expkit.plots.base import PlotContext
from expkit.plots.comparing import MOST_PANELS, compare, name_experiments, read_metrics
from expkit.plots.curve import Curve
from expkit.plots.gallery import Gallery, Words
from expkit.plots.panel_pictures import PanelPicture, PanelPlot
from expkit.plots.panels import LOSSES, evenly, group, make_panels, numbers
from expkit.plots.themes import ThemeName, find_theme
from expkit.plots.wave import WAVE_PICTURES, WavePlot
from expkit.plots.wave_tensors import collect_waves
from expkit.schedule import Every, Progress

if TYPE_CHECKING:
    from expkit.plots.gallery import TakesImages

__all__ = ["VisualizationManager"]

log = logging.getLogger("expkit")

#: Drawings of each kind that wait at most. A short script draws them all; one that asks for more than can be drawn
#: keeps the newest.
_WAITING = 8
#: Seconds that `close` and the end of a script wait for pictures; and after a Ctrl-C.
_PATIENCE, _HASTE = 60.0, 5.0
_WORDS = Words("generate_{name}_plots", "Failed to generate {name} plots: {error}", "viz_interval")


class VisualizationManager:
    """Draws pictures into `viz_dir`, in a process beside training. One that cannot be drawn is one warning.

    Its methods take a copy of what is to be drawn and return at once. Pictures come in the order asked for, each whole
    or not at all, whenever the process is killed. `with` and `close` wait for them, and so does the end of the script,
    for a minute at most. Methods may be called from a thread, and need neither a display nor a matplotlib backend.

    Args:
        viz_dir: folder of the pictures; made if it is not there.
        viz_interval: steps between two drawings, for `should_visualize`.
        theme: dark, light, or print (black on white).
        trackers: get every picture too, once it is drawn: a `expkit.trackers.Delivery` that has been started, or what
            else has its `image(name, path, step)`, called from a thread. Close this before them.

    Raises:
        UserError: (a ValueError) an argument is wrong, or the folder cannot be made.
    """

    def __init__(
        self,
        viz_dir: Path | str,
        viz_interval: int = 1000,
        theme: ThemeName = "dark",
        trackers: TakesImages | None = None,
    ) -> None:
        self.viz_dir = Path(viz_dir)
        self.viz_interval = _interval(viz_interval)
        find_theme(theme)
        if trackers is not None and not callable(getattr(trackers, "image", None)):
            raise UserError(f"trackers={trackers!r} take no pictures: give a Delivery, or something with image()")
        self._theme, self._trackers = theme, trackers
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._gallery: Gallery | None = None
        self._process = 0
        try:
            self.viz_dir.mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(self.viz_dir)
        except OSError as error:
            raise UserError(
                f"viz_dir={self.viz_dir} cannot be made: {error.strerror}; choose another folder for pictures"
            ) from None

    def should_visualize(self, step: int) -> bool:
        """Whether `step` is a multiple of the interval; never at 0."""
        return Every(steps=self.viz_interval).due(Progress(step=int(step)))

    def generate_training_plots(
        self, step: int, loss_history: Any, metrics: Mapping[str, Any] | None = None
    ) -> list[Path]:
        """Draw `training_dynamics_step_{step}.png`: the losses in one panel, each further metric in one of its own.

        Curves that go up and down are drawn faintly, with their exponential moving average. Positive losses over a
        wide range have a logarithmic axis. NaN and infinities are left out, and counted in the picture.

        Args:
            step: updates done: where the curves end.
            loss_history: the losses so far, spread evenly over the steps (one for each, or for every tenth ...):
                numbers, or one-element tensors (a copy each, if they lie on a device); may be empty.
            metrics: name -> list of values of any length, over the same steps. `val_loss` joins the losses, and
                train_NAME and val_NAME share a panel; of more than nine panels the first nine are drawn. A single
                number is written under the title.

        Returns:
            The picture that will be there: one, or none if there is nothing to draw or it failed: said in one line.
        """
        return self._attempt("training", lambda: self._training(int(step), loss_history, metrics or {}))

    def generate_model_plots(self, step: int, model: Any) -> list[Path]:
        """Draw the wave tensors of a model that has them: frequencies, phases, harmonics and wave_packets.

        Args:
            step: updates done, for the names of the pictures: `{which}_step_{step}.png`.
            model: a module, wrapped or not, with a submodule that holds the tensors frequencies and phases, (tokens,
                waves), and amplitudes, (tokens, waves, harmonics).

        Returns:
            The pictures that will be there. Without wave tensors there are none, which is said once.
        """
        return self._attempt("model", lambda: self._model(int(step), model))

    def generate_comparison_plots(self, experiments: Any) -> list[Path]:
        """Draw several experiments in the same panels. What one of them lacks is left out.

        Args:
            experiments: a list of experiments, or a dict of them by name: what `ResultsParser(path).parse()` gives, or
                for each `{"name": str, "loss_history": list, "metrics": {name: list of values}}`; a single number is a
                point at the end. With `"steps": {name: list}` values are at their steps, else evenly spread.

        Returns:
            The picture that will be there, `experiment_comparison.png`: the losses in one panel, then each metric
            that two or more have, nine at most; none if there is nothing to draw or it failed, which is said in one
            line.
        """
        return self._attempt("comparison", lambda: self._comparison(experiments))

    def wait(self, timeout: float = _PATIENCE) -> None:
        """Wait until the pictures asked for are there, but not longer than `timeout` seconds."""
        gallery = self._gallery
        if gallery is not None and self._process == os.getpid():
            gallery.wait(timeout)

    def close(self, timeout: float = _PATIENCE) -> None:
        """Wait as `wait` does, and end the process that draws. What is asked for later starts another."""
        with self._lock:
            gallery, self._gallery = self._gallery, None
        if gallery is not None and self._process == os.getpid():
            _finish(gallery, timeout)

    def __enter__(self) -> VisualizationManager:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.close(_HASTE if kind is not None and issubclass(kind, KeyboardInterrupt) else _PATIENCE)

    def _attempt(self, what: str, collect: Callable[[], list[Path]]) -> list[Path]:
        try:
            return collect()
        except Exception as error:  # noqa: BLE001 - a picture, of whatever kind, is never worth a run
            reason = str(error) if isinstance(error, UserError) else describe(error)
            log.warning("Failed to generate %s plots: %s", what, reason)
            return []

    def _training(self, step: int, loss_history: Any, metrics: Mapping[str, Any]) -> list[Path]:
        curves: dict[str, Curve] = {}
        shown: list[str] = []
        losses = numbers("loss_history", loss_history)
        if isinstance(losses, list) and losses:
            curves["loss"] = Curve(evenly(len(losses), step), losses)
        for name, values in read_metrics(metrics, self._say_once).items():
            if not isinstance(values, list):
                shown.append(f"{name} {values:.5g}")
            elif name not in curves:
                curves[name] = Curve(evenly(len(values), step), values)
        drawn = {name: curve for name, curve in curves.items() if curve.bounds() is not None}
        if not drawn:
            log.warning("no training plots at step %d: there is no finite value in a list to draw", step)
            return []
        shown += [f"{name}: not one finite value" for name in curves if name not in drawn]
        groups = group(sorted(drawn, key=lambda name: name not in LOSSES))
        kept = dict(list(groups.items())[:MOST_PANELS])
        if left := [name for title in groups if title not in kept for name in groups[title]]:
            self._say_once(f"not drawn, as there are {MOST_PANELS} panels already: {', '.join(left)}")
        panels = make_panels(kept, drawn)
        file, heading = f"training_dynamics_step_{step}.png", f"{self._title()}: step {step:,}"
        return self._draw("training", step, [PanelPicture(file, heading, panels, "   ".join(shown))], [file])

    def _model(self, step: int, model: Any) -> list[Path]:
        found = collect_waves(model)
        if isinstance(found, str):
            self._say_once(found)
            return []
        return self._draw("model", step, found, [f"{which}_step_{step}.png" for which in WAVE_PICTURES])

    def _comparison(self, experiments: Any) -> list[Path]:
        named = name_experiments(experiments)
        pictures, last = compare(named, self._say_once)
        if not pictures:
            log.warning("no comparison plots: %d experiments with nothing to draw in common", len(named))
            return []
        return self._draw("comparison", last, pictures, [each.file for each in pictures])

    def _draw(self, what: str, step: int, collected: Any, files: list[str]) -> list[Path]:
        """Hand over what has been collected, and return where the pictures will be."""
        context = PlotContext(step, self.viz_dir.absolute(), self.viz_dir.absolute() / "metrics.jsonl", self._title())
        with self._lock:
            if self._gallery is None or self._process != os.getpid():  # a fork has no thread that draws
                self._gallery, self._process = self._open(), os.getpid()
            self._gallery.submit(what, context, collected)
        return [self.viz_dir / file for file in files]

    def _open(self) -> Gallery:
        plots = {
            "training": PanelPlot(theme=self._theme),
            "model": WavePlot(theme=self._theme),
            "comparison": PanelPlot(theme=self._theme),
        }
        gallery = Gallery(plots, self._trackers, _WORDS, _WAITING)
        _galleries[gallery] = os.getpid()
        # Whoever drops the manager still gets what was asked for, and waits for it at the end of the script.
        weakref.finalize(self, _end, gallery).atexit = False
        return gallery

    def _title(self) -> str:
        folder = self.viz_dir.resolve()
        return folder.parent.name if folder.name == "visualizations" else "Training"

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning(message)


#: Those that may still have something to draw, and in which process.
_galleries: dict[Gallery, int] = {}


def _end(gallery: Gallery) -> None:
    if _galleries.get(gallery) == os.getpid():
        gallery.end()


def _finish(gallery: Gallery, timeout: float) -> None:
    try:
        gallery.finish(timeout)
    finally:
        _galleries.pop(gallery, None)


@atexit.register
def _finish_all() -> None:
    """Wait for pictures at the end of the script; a Ctrl-C ends that, too."""
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for gallery, process in list(_galleries.items()):
        if process == os.getpid():
            try:
                _finish(gallery, _HASTE if interrupted else _PATIENCE)
            except KeyboardInterrupt:
                interrupted = True


def _interval(value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise UserError(f"viz_interval must be a whole number of at least 1, not {value!r}")
    return number
