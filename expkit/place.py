"""Where in the user's own code an error was raised."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

from expkit.errors import describe

__all__ = ["describe_at", "place", "short_path"]

_OURS = tuple(f"{Path(__file__).parents[1] / name}/" for name in ("expkit", "train"))
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def describe_at(error: BaseException) -> str:
    """Return `describe(error)`, and where in the user's own code it was raised, if it was."""
    where = place(error)
    return f"{describe(error)}, at {where}" if where else describe(error)


def place(error: BaseException) -> str:
    """Return `my_task.py, line 12`: where in the user's own code `error` was raised, or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*_OURS, *_INSTALLED, "<")):
            return f"{short_path(frame.filename)}, line {frame.lineno}"
    return ""


def short_path(path: str | Path) -> str:
    """Return a path as it is from here, if it is below this folder."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else str(path)
