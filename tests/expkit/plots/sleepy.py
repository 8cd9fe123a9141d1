"""Plots for the tests of what draws beside training: the process that draws imports them from here."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from expkit.plots import Plot, PlotContext

__all__ = ["Answering", "Asleep", "Counting", "Dying", "Hanging", "Raising", "Slow", "Talking", "Unfit"]


class Counting(Plot):
    """Writes what it was given, and how often it was drawn."""

    drawn = 0

    def draw(self, context: PlotContext, collected: Any) -> list[Path]:
        self.drawn += 1
        path = context.folder / f"counting_step_{context.step}.png"
        path.write_text(f"{self.drawn} {collected} {os.getpid()}")
        return [path]


class Raising(Plot):
    """Fails."""

    def draw(self, context: PlotContext, collected: Any) -> list[Path]:
        raise RuntimeError("no\npicture")


class Dying(Plot):
    """Takes the process with it, once."""

    def draw(self, context: PlotContext, collected: Any) -> list[Path]:
        os.write(2, b"first line\nout of luck\n")
        os._exit(7)


class Slow(Plot):
    """Draws until a file appears."""

    def draw(self, context: PlotContext, collected: Path) -> list[Path]:
        (collected / f"began_{context.step}").touch()
        while not (collected / "go").exists():
            time.sleep(0.01)
        path = context.folder / f"slow_step_{context.step}.png"
        path.touch()
        return [path]


class Asleep(Plot):
    """Draws for ever, whoever uses it."""

    def draw(self, context: PlotContext, collected: Any) -> list[Path]:
        while True:
            time.sleep(1)


class Hanging(Slow):
    """Draws for ever."""


class Talking(Plot):
    """Has something to say."""

    def draw(self, context: PlotContext, collected: Any) -> list[Path]:
        logging.getLogger("expkit").warning("colours run %s", "out")
        return []


class Unfit(Plot):
    """Cannot go to another process."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = lambda: None


class Answering(Plot):
    """Returns what it was given."""

    def draw(self, context: PlotContext, collected: Any) -> Any:
        return collected
