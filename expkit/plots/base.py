"""What a plot is: it draws a run's pictures at a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Plot", "PlotContext"]


@dataclass(frozen=True, slots=True)
class PlotContext:
    """What there is to draw from.

    Attributes:
        step: updates done.
        folder: where pictures go.
        journal: path of metrics.jsonl.
        model: the model, in evaluation mode.
        task: the task; a plot uses what it offers.
        name: the run's name, for titles.
    """

    step: int
    folder: Path
    journal: Path
    model: nn.Module
    task: Any
    name: str


class Plot:
    """Base class of plots.

    Args:
        viz_interval: steps between two drawings (`auto`: by the run's length); there is one at the end too.
    """

    def __init__(self, viz_interval: int | Literal["auto"] = "auto") -> None:
        if viz_interval != "auto" and viz_interval < 1:
            raise ValueError(f"viz_interval={viz_interval}: give a number of steps from 1, or auto")
        self.viz_interval = viz_interval

    def draw(self, context: PlotContext) -> list[Path]:
        """Draw, and return the pictures made: `context.folder/{name}_step_{step}.png`."""
        raise NotImplementedError
