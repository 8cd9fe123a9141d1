"""The errors that expkit raises on purpose. A `UserError` is shown as one line, without a traceback."""

from __future__ import annotations

__all__ = ["ConfigError", "RankFailed", "ResumeError", "UserError", "describe"]


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
