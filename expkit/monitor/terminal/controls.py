"""What somebody at the keyboard has chosen to see, and what each key does to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from expkit.monitor.terminal.chart import CONSTANTS
from expkit.reading.axis import ALONG, Along
from expkit.reading.screen import View

__all__ = ["HELP", "Controls"]

#: Keys -> what they do, as the help shows them.
HELP = {
    "q, Ctrl-C": "quit",
    "?": "this help",
    "n, Space, Right": "next page of panels; b, Left: the one before",
    "/": "only metrics whose names hold what you type (or * ? [ ]); Esc: all",
    "r, Tab, Down": "next run; R, Up: back; 1 to 9 choose, 0 is all",
    "x": "over steps, over time, over epochs",
    "l": "logarithmic vertical axes: where telling, always, never",
    "+ / -": "more / less smoothing",
    "a": "all alerts",
    "g": "the machine: a few bars, all, none",
    "p": "pause, and go on",
    "u": "braille or plain ASCII",
    "t": "colours for a dark or a light background",
    "Ctrl-L": "draw everything again",
}

_LOGARITHMIC = (None, True, False)
_GAUGES = ("few", "all", "none")


@dataclass(slots=True)
class Controls:
    """What is to be seen.

    Attributes:
        page: of panels, from 0; whoever draws knows how many there are, and takes it modulo that.
        chosen: the one run that is shown, from 0; None for all of them.
        along: what the horizontal axes are.
        logarithmic: whether vertical axes are; None where it is telling.
        smoothing: place in `CONSTANTS`.
        filter: what names of metrics have to hold; "" for no filter.
        typing: whether the filter is being typed.
        paused: whether nothing new is read.
        over: what is shown in place of the panels.
        gauges: how many of the machine's bars.
        flipped: whether Unicode and ASCII are exchanged.
        light: whether the background is light; None as the terminal says.
        ended: whether somebody has had enough.
    """

    page: int = 0
    chosen: int | None = None
    along: Along = "step"
    logarithmic: bool | None = None
    smoothing: int = CONSTANTS.index(0.015)
    filter: str = ""
    typing: bool = False
    paused: bool = False
    over: Literal["", "help", "alerts"] = ""
    gauges: str = "few"
    flipped: bool = False
    light: bool = False
    ended: bool = False

    @classmethod
    def of(cls, view: View) -> Controls:
        """Return what is to be seen at first."""
        return cls(along=view.along, logarithmic=view.logarithmic)

    def press(self, key: str, runs: int) -> None:
        """Do what a key does.

        Args:
            key: a sign, or the name of a key: enter, escape, backspace, up, ...
            runs: how many there are.
        """
        if self.typing:
            self._type(key)
        elif key == "q":
            self.ended = True
        elif key in ("?", "h", "a"):
            wanted: Literal["help", "alerts"] = "alerts" if key == "a" else "help"
            self.over = "" if self.over == wanted else wanted
        elif key == "escape":
            if self.over:
                self.over = ""
            else:
                self.filter, self.page = "", 0
        elif key == "/":
            self.typing, self.over, self.filter, self.page = True, "", "", 0
        else:
            self._look(key, runs)

    def _look(self, key: str, runs: int) -> None:
        if key in ("n", " ", "right", "pagedown"):
            self.page += 1
        elif key in ("b", "left", "pageup"):
            self.page -= 1
        elif key == "home":
            self.page = 0
        elif key in ("r", "tab", "down", "R", "backtab", "up"):
            self._choose(1 if key in ("r", "tab", "down") else -1, runs)
        elif key.isdecimal() and key.isascii():
            self.chosen = int(key) - 1 if 0 < int(key) <= runs and runs > 1 else None
        elif key == "x":
            self.along = _next(ALONG, self.along)
        elif key == "l":
            self.logarithmic = _next(_LOGARITHMIC, self.logarithmic)
        elif key in ("+", "="):
            self.smoothing = min(self.smoothing + 1, len(CONSTANTS) - 1)
        elif key in ("-", "_"):
            self.smoothing = max(self.smoothing - 1, 0)
        elif key == "g":
            self.gauges = _next(_GAUGES, self.gauges)
        elif key == "p":
            self.paused = not self.paused
        elif key == "u":
            self.flipped = not self.flipped
        elif key == "t":
            self.light = not self.light

    def _choose(self, by: int, runs: int) -> None:
        """Go on to the next run; beyond the last one are all of them."""
        if runs > 1:
            place = (-1 if self.chosen is None else self.chosen) + 1 + by
            self.chosen = place % (runs + 1) - 1
            if self.chosen < 0:
                self.chosen = None

    def _type(self, key: str) -> None:
        if key == "enter":
            self.typing = False
        elif key == "escape":
            self.typing, self.filter = False, ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter += key
        self.page = 0


def _next(choices: tuple, now: object):  # type: ignore[no-untyped-def, type-arg]
    return choices[(choices.index(now) + 1) % len(choices)]
