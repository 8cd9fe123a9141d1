"""What a terminal can show: colours or none, Unicode or ASCII, a cursor that can be moved or not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO

from rich.console import Console
from rich.style import Style
from rich.text import Text

from expkit.plots.themes import THEMES, Theme
from expkit.printable import printable as plain

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Look", "detect_look", "plain", "shortened", "styled"]

Colours = Literal["none", "standard", "256", "truecolor"]

#: Lines of terminals that have eight colours only, in the order of the theme's.
_STANDARD = ("bright_cyan", "yellow", "bright_green", "bright_magenta", "bright_blue", "bright_yellow", "red", "white")
_FAINT = 0.45  # of the colour, the rest is the background's

#: What stands for what, where only ASCII can be shown. All else that is not ASCII becomes a question mark.
_ASCII = str.maketrans("─│┤└┴┬┆█░━╸·…✕●•▸°", "-|++++:#.=>-~x*o>o")


@dataclass(frozen=True, slots=True)
class Look:
    """How things are shown in a terminal.

    Attributes:
        colours: which there are.
        unicode: whether more than ASCII can be shown.
        light: whether the background is light.
        movable: whether the cursor can be moved: else there is only one line after the other.
    """

    colours: Colours = "none"
    unicode: bool = True
    light: bool = False
    movable: bool = True

    def line(self, place: int) -> Style:
        """Return the style of the line with this place in the cycle of colours."""
        if self.colours == "none":
            return Style()
        if self.colours == "standard":
            return Style(color=_STANDARD[place % len(_STANDARD)])
        cycle = self._theme().cycle
        return Style(color=cycle[place % len(cycle)])

    def faint(self, place: int) -> Style:
        """Return the style of the values behind a line that is their average."""
        if self.colours in ("none", "standard"):
            return self.line(place) + Style(dim=True)
        cycle = self._theme().cycle
        return Style(color=_mixed(cycle[place % len(cycle)], self._theme().axes))

    @property
    def muted(self) -> Style:
        """The style of what is read second."""
        if self.colours in ("none", "standard"):
            return Style(dim=True)
        return Style(color=self._theme().muted)

    @property
    def alert(self) -> Style:
        """The style of what must not be overlooked."""
        return Style(bold=True) if self.colours == "none" else Style(color="red" if self.light else "bright_red")

    @property
    def warning(self) -> Style:
        """The style of what should be looked at."""
        return Style() if self.colours == "none" else Style(color="dark_orange3" if self.light else "yellow")

    def badge(self, colour: str) -> Style:
        """Return the style of a word on a coloured ground; reversed, where there is no colour."""
        if self.colours == "none":
            return Style(bold=True, reverse=True)
        return Style(color="black", bgcolor=colour, bold=True)

    def console(self, file: TextIO, width: int) -> Console:
        """Return a console of rich that writes so."""
        none = self.colours == "none"
        return Console(
            file=file,
            width=width,
            color_system="standard" if self.colours == "none" else self.colours,  # of none: bold and reverse are left
            no_color=none,
            force_terminal=self.movable,
            highlight=False,
            legacy_windows=False,
        )

    def render(self, lines: Sequence[Text], width: int) -> list[str]:
        """Return lines as they are written, with escape codes; as plain text where the cursor cannot be moved."""
        if not self.movable:
            return [self.written(line.plain.rstrip()) for line in lines]
        import io

        console = self.console(io.StringIO(), width)
        with console.capture() as capture:
            for line in lines:
                console.print(line, no_wrap=True, overflow="ignore", crop=False)
        return [self.written(line) for line in capture.get().split("\n")[: len(lines)]]

    def written(self, text: str) -> str:
        """Return text with what this terminal can show."""
        return text if self.unicode else text.translate(_ASCII).encode("ascii", "replace").decode()

    def _theme(self) -> Theme:
        return THEMES["light" if self.light else "dark"]


def detect_look(out: TextIO, environment: Mapping[str, str] = os.environ) -> Look:
    """Return what the terminal of a stream can show, by its environment."""
    term = environment.get("TERM", "")
    movable = out.isatty() and term not in ("", "dumb", "unknown")
    return Look(
        colours=_colours(term, environment) if movable else "none",
        unicode=_is_utf8(out, environment) and term != "linux",  # whose font has no braille
        light=environment.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15"),
        movable=movable,
    )


def shortened(name: str, width: int) -> str:
    """Return a name in so many characters: its end, which tells runs apart, stays."""
    end = min(14, max(width - 1, 0) // 2)
    return name if len(name) <= width else f"{name[: max(width - end - 1, 0)]}…{name[len(name) - end :]}"


def styled(text: str, style: Style | str = "") -> Text:
    """Return a text of which so much is in a style: what is added to it is not."""
    return Text.assemble((text, style))


def _colours(term: str, environment: Mapping[str, str]) -> Colours:
    if environment.get("NO_COLOR"):
        return "none"
    if environment.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return "truecolor"
    if "256color" in term or "direct" in term or "kitty" in term:
        return "256"
    with contextlib.suppress(ImportError, OSError):
        import curses

        with contextlib.suppress(curses.error):
            curses.setupterm(term, fd=1)
            count = curses.tigetnum("colors")
            return "256" if count >= 256 else "standard" if count >= 8 else "none"
    return "none" if term.startswith("vt") else "standard"


def _is_utf8(out: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether the locale is one of UTF-8, and the stream takes it.

    Python itself sets LC_CTYPE=C.UTF-8 where the locale is C (PEP 538): that does not say what the terminal shows.
    """
    if "utf" not in (out.encoding or "").lower():
        return False
    language = environment.get("LANG") or "C"
    of_characters = environment.get("LC_CTYPE", "")
    if of_characters == "C.UTF-8" and language in ("C", "POSIX"):
        of_characters = ""
    locale = environment.get("LC_ALL") or of_characters or language
    return "utf" in locale.lower()


def _mixed(colour: str, ground: str) -> str:
    parts = [(int(colour[place : place + 2], 16), int(ground[place : place + 2], 16)) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(_FAINT * own + (1 - _FAINT) * other):02x}" for own, other in parts)
