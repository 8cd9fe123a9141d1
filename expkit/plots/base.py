"""What a plot is: it takes what it needs of the model in the training loop, and draws in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expkit.plots.themes import ThemeName, find_theme

if TYPE_CHECKING:
    from torch import nn

    from expkit.detectors import Detector
    from expkit.diagnostics import Diagnostic

__all__ = ["NOTHING", "Plot", "PlotContext", "PlotSource"]

#: What `Plot.collect` returns if there is nothing to draw this time.
NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class PlotSource:
    """What there is to look at, in the training loop.

    Attributes:
        model: the model, in evaluation mode, without gradients.
        task: the task; a plot uses what it offers.
        diagnostics, detectors: those of the run, by name.
    """

    model: nn.Module
    task: Any = None
    diagnostics: Mapping[str, Diagnostic] = field(default_factory=dict)
    detectors: Mapping[str, Detector] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlotContext:
    """Which pictures are drawn, and what is on the disk to draw from.

    Attributes:
        step: updates done.
        folder: where pictures go.
        journal: path of metrics.jsonl.
        name: the run's name, for titles.
    """

    step: int
    folder: Path
    journal: Path
    name: str


class Plot:
    """Base class of plots.

    `collect` looks at the model, in the training loop. `draw` draws, in a process beside it: it has a copy of the plot
    as it was constructed, sees neither model nor GPU, and keeps its attributes from drawing to drawing. So a plot must
    be picklable: its class stands at the top of a module.

    Args:
        viz_interval: steps between two drawings (`auto`: by the run's length); there is one at the end too.
        theme: dark, light, or print (black on white, told apart without colours).

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(self, *, viz_interval: int | Literal["auto"] = "auto", theme: ThemeName = "dark") -> None:
        if viz_interval != "auto" and viz_interval < 1:
            raise ValueError(f"viz_interval={viz_interval}: give a number of steps from 1, or auto")
        self.viz_interval = viz_interval
        self.theme = find_theme(theme)

    def before_update(self, model: nn.Module) -> None:
        """Look at gradients: after clipping, before the optimizer's step, at a step that is due. Training waits."""

    def collect(self, source: PlotSource) -> Any:
        """Return what `draw` needs of the model: small, on the host, picklable (arrays, say). Training waits.

        NOTHING skips the drawing.
        """
        return None

    def draw(self, context: PlotContext, collected: Any) -> list[Path]:
        """Draw, and return the pictures made: `context.folder/{name}_step_{step}.png`.

        Args:
            context: what to draw.
            collected: what `collect` returned, at this step.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no draw(context, collected), which returns a list of paths"
        )
