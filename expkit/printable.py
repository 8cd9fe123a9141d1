"""Names and texts from files, made fit for a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """Return text in one line, without characters that a terminal would obey: escapes, controls, turns of direction."""
    if text.isprintable():  # most are, and a list has a hundred thousand
        return text
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "?" for sign in text)
