"""What happens to pictures around their drawing: what fails is said once, what is drawn goes to the trackers too."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from expkit.errors import describe
from expkit.place import describe_at
from expkit.plots.base import Plot, PlotContext
from expkit.plots.drawer import Drawer, Drawn

__all__ = ["Gallery", "TakesImages", "Words"]

log = logging.getLogger("expkit")


class TakesImages(Protocol):
    """What pictures are handed to: `expkit.trackers.Delivery`, say. It must not block."""

    def image(self, name: str, path: Path, step: int) -> object:
        """Take a picture file that shows `step`."""


@dataclass(frozen=True, slots=True)
class Words:
    """How plots are called in messages; `{name}` stands for a plot's name.

    Attributes:
        label: the plot.
        failed: the beginning of the line about one that fails, with `{step}` and `{error}`.
        interval: the setting that has it drawn less often.
    """

    label: str = "plots.{name}"
    failed: str = "plots.{name} failed at step {step} ({error}): training goes on"
    interval: str = "plots.{name}.viz_interval"


class Gallery:
    """Has pictures drawn in a process of its own. Its methods may be called from any thread.

    Args:
        plots: name -> plot.
        trackers: get every picture too.
        words: what they are called in messages.
        waiting: how many drawings of each plot wait at most, the newest ones.

    Attributes:
        latest: the last pictures of each plot.
    """

    def __init__(
        self,
        plots: Mapping[str, Plot],
        trackers: TakesImages | None = None,
        words: Words | None = None,
        waiting: int = 1,
    ) -> None:
        self._trackers = trackers
        self._words = words or Words()
        self._lock = threading.Lock()
        self._failed: dict[str, int] = {}
        self._left_out: dict[str, int] = {}
        self._drawer = Drawer(plots, self._drawn, waiting=waiting)
        self.latest: dict[str, list[Path]] = {}

    def start(self) -> None:
        """Start the process, which takes a second that nobody waits for."""
        with self._lock:
            self._drawer.start()

    def submit(self, name: str, context: PlotContext, collected: Any) -> None:
        """Have something drawn.

        Raises:
            Exception: whatever pickling raised.
        """
        with self._lock:
            if not self._drawer.submit(name, context, collected):
                return
            if not self._left_out:
                log.warning(
                    "%s: a picture from before step %d is left out, as drawing takes longer than its interval: choose "
                    "a longer %s; how many of all are left out is said at the end",
                    self._label(name), context.step, self._words.interval.format(name=name),
                )  # fmt: skip
            self._left_out[name] = self._left_out.get(name, 0) + 1

    def fail(self, name: str, step: int, error: Exception) -> None:
        """Say, once, that a plot cannot be drawn."""
        self._drawn(Drawn(name, step, [], describe_at(error)))

    def wait(self, timeout: float) -> None:
        """Wait until everything is drawn, but not longer than `timeout` seconds: what is not yet is drawn later."""
        if left := self._drawer.wait(timeout):
            log.warning("%s: not drawn within %g seconds", ", ".join(map(self._label, left)), timeout)

    def finish(self, timeout: float) -> None:
        """Wait until everything is drawn, but not longer than `timeout` seconds, and end the process."""
        left = self._drawer.finish(timeout)
        if left:
            log.warning("%s: not drawn within %g seconds, given up", ", ".join(map(self._label, left)), timeout)
        if self._left_out:
            counts = ", ".join(f"{count} of {self._label(name)}" for name, count in self._left_out.items())
            log.warning("pictures left out, as drawing takes longer than their intervals: %s", counts)
        self._left_out = {}

    def end(self) -> None:
        """Let the process end once everything is drawn."""
        self._drawer.end()

    def abandon(self) -> None:
        """Draw nothing more."""
        self._drawer.abandon()

    def _drawn(self, drawn: Drawn) -> None:
        name = drawn.plot
        if drawn.error is not None:
            if name not in self._failed:
                log.warning("%s", self._words.failed.format(name=name, step=drawn.step, error=drawn.error))
            self._failed[name] = self._failed.get(name, 0) + 1
            return
        if name in self._failed:
            log.warning("%s works again: %d picture(s) were not drawn", self._label(name), self._failed.pop(name))
        self.latest[name] = drawn.paths
        if self._trackers is None:
            return
        for path in drawn.paths:
            try:
                self._trackers.image(path.stem.rsplit("_step_", 1)[0], path, drawn.step)
            except Exception as error:  # noqa: BLE001 - the drawing thread must outlive whatever it hands pictures to
                log.warning("%s was not taken by the trackers: %s", path.name, describe(error))

    def _label(self, name: str) -> str:
        return self._words.label.format(name=name)
