"""The errors that expkit raises on purpose. A `UserError` is shown as one line, without a traceback."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

__all__ = ["ConfigError", "RankFailed", "ResumeError", "UserError", "describe", "describe_at", "place", "short_path"]

_OURS = tuple(f"{Path(__file__).parents[1] / name}/" for name in ("expkit", "train"))
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class UserError(ValueError):
    """A mistake of the user's: the message says what was wrong, where, and what to do instead.

    Attributes:
        hangs: whether what it has left behind may keep this process from ending.
    """

    hangs = False


class ConfigError(UserError):
    """A configuration that cannot work: the message names the configuration key."""


class ResumeError(UserError):
    """A run or checkpoint that cannot be resumed."""


class RankFailed(UserError):  # noqa: N818 - it tells what has happened
    """Another process of the job has failed, is gone or hangs: the message names it, and says how to go on."""


def describe(error: BaseException) -> str:
    """Return type and message of an error and of what caused it first, in one line."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = f"{type(error).__name__}: {error}"
    if root is not error:
        text += f" (caused by {type(root).__name__}: {root})"
    return " ".join(text.split()).rstrip(":")[:500]


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
