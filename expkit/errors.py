"""The errors that expkit raises on purpose. A `UserError` is shown as one line, without a traceback."""

from __future__ import annotations

__all__ = ["ConfigError", "ResumeError", "UserError"]


class UserError(ValueError):
    """A mistake of the user's: the message says what was wrong, where, and what to do instead."""


class ConfigError(UserError):
    """A configuration that cannot work: the message names the configuration key."""


class ResumeError(UserError):
    """A run or checkpoint that cannot be resumed."""
