"""Colours of pictures: for dark and light screens, and for print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from expkit.errors import UserError

__all__ = ["STYLES", "THEMES", "Theme", "ThemeName", "find_theme"]

ThemeName = Literal["dark", "light", "print"]


#: Line styles.
STYLES = 4


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours. Those of `cycle` are told apart by people with any kind of colour vision.

    With `dashed` the lines differ in their style too, for paper without colours.
    """

    figure: str
    axes: str
    text: str
    muted: str
    grid: str
    alert: str
    cycle: tuple[str, ...]
    dashed: bool = False

    def look(self, colour: int, dash: int) -> tuple[str, int]:
        """Return the colour and the place of the line style of a line (`Line.colour`, `Line.dash`).

        After the last colour they begin again in another style; on paper the styles change first.
        """
        if self.dashed:
            return self.cycle[colour // STYLES % len(self.cycle)], (colour + dash) % STYLES
        turn, place = divmod(colour, len(self.cycle))
        return self.cycle[place], (turn + dash) % STYLES


THEMES: dict[str, Theme] = {
    "dark": Theme(
        figure="#0f1419",
        axes="#161c24",
        text="#e6e9ee",
        muted="#95a0ae",
        grid="#2b3440",
        alert="#ff5d5d",
        cycle=("#56b4f0", "#f5a742", "#4fd1a1", "#ef6f9f", "#b49cf5", "#ece066", "#f07f5b", "#a9b4c2"),
    ),
    "light": Theme(
        figure="#ffffff",
        axes="#ffffff",
        text="#1b222b",
        muted="#5b6673",
        grid="#e1e5ea",
        alert="#c62828",
        cycle=("#0068b0", "#d2600a", "#00855f", "#c0357a", "#6a4fc4", "#8f7a00", "#8c4a3a", "#5b6673"),
    ),
    "print": Theme(
        figure="#ffffff",
        axes="#ffffff",
        text="#000000",
        muted="#404040",
        grid="#dddddd",
        alert="#000000",
        cycle=("#000000", "#808080"),
        dashed=True,
    ),
}


def find_theme(name: str) -> Theme:
    """Return the theme called `name`.

    Raises:
        UserError: (a ValueError) there is none.
    """
    if not isinstance(name, str) or name not in THEMES:
        raise UserError(f"theme={name}: choose {', '.join(list(THEMES)[:-1])} or {list(THEMES)[-1]}")
    return THEMES[name]
