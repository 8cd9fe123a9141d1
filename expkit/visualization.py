"""VisualizationManager: pictures of training in somebody's own training loop, in two lines."""

from __future__ import annotations

import logging
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from expkit.files import remove_stale_temporaries
from expkit.plots.curve import Curve
from expkit.plots.drawing import draw_panels, save_figure
from expkit.plots.panels import LOSSES, Line, Panel, evenly, group, make_panels, numbers
from expkit.plots.themes import ThemeName, find_theme
from expkit.plots.wave import collect_waves, draw_waves
from expkit.schedule import Every, Progress

__all__ = ["VisualizationManager"]

log = logging.getLogger("expkit")

_MOST_PANELS = 9


class VisualizationManager:
    """Draws pictures into `viz_dir`. A picture that cannot be drawn is one warning, and training goes on.

    Its methods may be called from a thread, and need neither a display nor a matplotlib backend. A picture is there
    whole or not at all, whenever the process is killed.

    Args:
        viz_dir: folder of the pictures; made if it is not there.
        viz_interval: steps between two drawings, for `should_visualize`.
        theme: dark, light, or print (black on white).

    Raises:
        UserError: (a ValueError) an argument is wrong, or the folder cannot be made.
    """

    def __init__(self, viz_dir: Path | str, viz_interval: int = 1000, theme: ThemeName = "dark") -> None:
        self.viz_dir = Path(viz_dir)
        self.viz_interval = _interval(viz_interval)
        self._theme = find_theme(theme)
        self._said: set[str] = set()
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
            The pictures made: one, or none if there is nothing to draw or it failed, which is said in one line.
        """
        return self._attempt("training", lambda: self._draw_training(int(step), loss_history, metrics or {}))

    def generate_model_plots(self, step: int, model: Any) -> list[Path]:
        """Draw the wave tensors of a model that has them: frequencies, phases, harmonics and wave_packets.

        Args:
            step: updates done, for the names of the pictures: `{which}_step_{step}.png`.
            model: a module, wrapped or not, with a submodule that holds the tensors frequencies and phases, (tokens,
                waves), and amplitudes, (tokens, waves, harmonics).

        Returns:
            The pictures made. Without wave tensors there are none, which is said once.
        """
        return self._attempt("model", lambda: self._draw_model(int(step), model))

    def generate_comparison_plots(self, experiments: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Draw `experiment_comparison.png`: the losses of all in one panel, then each metric that two or more have.

        Args:
            experiments: for each its `name`, `loss_history` and `metrics` (name -> list of values; a single number
                is a point at the end). What one of them lacks is left out. At most nine metrics are drawn.

        Returns:
            The pictures made: one, or none if there is nothing to draw or it failed, which is said in one line.
        """
        return self._attempt("comparison", lambda: self._draw_comparison(list(experiments)))

    def _attempt(self, what: str, draw: Callable[[], list[Path]]) -> list[Path]:
        try:
            return draw()
        except Exception as error:  # noqa: BLE001 - a picture, of whatever kind, is never worth a run
            reason = (str(error).splitlines() or [""])[0]
            log.warning("Failed to generate %s plots: %s: %s", what, type(error).__name__, reason)
            return []

    def _draw_training(self, step: int, loss_history: Any, metrics: Mapping[str, Any]) -> list[Path]:
        curves: dict[str, Curve] = {}
        shown: list[str] = []
        losses = numbers("loss_history", loss_history)
        if isinstance(losses, list) and losses:
            curves["loss"] = Curve(evenly(len(losses), step), losses)
        for name, values in self._readable(metrics).items():
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
        kept = dict(list(groups.items())[:_MOST_PANELS])
        self._say_left_out([name for title in groups if title not in kept for name in groups[title]])
        panels = make_panels(kept, drawn)
        figure = draw_panels(f"{self._title()}: step {step:,}", panels, self._theme, "   ".join(shown))
        return [save_figure(figure, self.viz_dir / f"training_dynamics_step_{step}.png")]

    def _draw_model(self, step: int, model: Any) -> list[Path]:
        found = collect_waves(model)
        if isinstance(found, str):
            self._say_once(found)
            return []
        return draw_waves(found, self.viz_dir, step, self._theme, self._title())

    def _draw_comparison(self, experiments: list[Mapping[str, Any]]) -> list[Path]:
        names = _told_apart([str(each.get("name") or f"experiment {n}") for n, each in enumerate(experiments, 1)])
        losses: list[Line] = []
        others: dict[str, list[Line]] = {}
        for place, (label, experiment) in enumerate(zip(names, experiments, strict=True)):
            found = self._readable({"loss_history": experiment.get("loss_history")}).get("loss_history", [])
            history = found if isinstance(found, list) else [found]
            curve = Curve(evenly(len(history), len(history)), history)
            if curve.bounds() is not None:
                losses.append(Line(label, curve, place))
            for name, values in self._readable(experiment.get("metrics") or {}).items():
                values = values if isinstance(values, list) else [values]
                curve = Curve(evenly(len(values), len(history) or len(values)), values)
                if curve.bounds() is not None:
                    others.setdefault(name, []).append(Line(label, curve, place))
        shared = [Panel(name, lines) for name, lines in others.items() if len(lines) > 1]
        panels = [*([Panel("loss", losses)] if losses else []), *shared[:_MOST_PANELS]]
        self._say_left_out([panel.title for panel in shared[_MOST_PANELS:]])
        if not panels:
            log.warning("no comparison plots: %d experiments with nothing to draw in common", len(experiments))
            return []
        heading = f"Comparison of {len(experiments)} experiment{'s' if len(experiments) > 1 else ''}"
        figure = draw_panels(heading, panels, self._theme, shared_legend=True)
        return [save_figure(figure, self.viz_dir / "experiment_comparison.png")]

    def _readable(self, metrics: Mapping[str, Any]) -> dict[str, list[float] | float]:
        """Return the metrics that are numbers; what is not is said once."""
        found: dict[str, list[float] | float] = {}
        for name, values in metrics.items():
            try:
                made = numbers(str(name), values)
            except TypeError as error:
                self._say_once(f"left out of the plots: {error}")
                continue
            if made is not None:
                found[str(name)] = made
        return found

    def _title(self) -> str:
        folder = self.viz_dir.resolve()
        return folder.parent.name if folder.name == "visualizations" else "Training"

    def _say_left_out(self, names: list[str]) -> None:
        if names:
            self._say_once(f"not drawn, as there are {_MOST_PANELS} panels already: {', '.join(names)}")

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning(message)


def _interval(value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise UserError(f"viz_interval must be a whole number of at least 1, not {value!r}")
    return number


def _told_apart(names: list[str]) -> list[str]:
    """Number the names that occur more than once."""
    count, seen = Counter(names), Counter[str]()
    made = []
    for name in names:
        seen[name] += 1
        made.append(f"{name} ({seen[name]})" if count[name] > 1 else name)
    return made
