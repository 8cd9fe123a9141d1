"""What cannot be written is said once and counted, and said once more when it can be written again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from expkit.secrets import mask_text

__all__ = ["WriteTrouble"]

log = logging.getLogger("expkit")


class WriteTrouble:
    """The troubles of one file that is written again and again. A disk that stays full is one line, not one per step.

    Args:
        path: the file.
        meanwhile: what happens as long as it cannot be written.

    Attributes:
        error: why the last attempt failed, or None if it worked.
        failures: how many attempts failed in all.
    """

    def __init__(self, path: Path, meanwhile: str = "training goes on") -> None:
        self._path = path
        self._meanwhile = meanwhile
        self._last = ""
        self._in_a_row = 0
        self.error: Exception | None = None
        self.failures = 0

    def failed(self, error: Exception) -> None:
        """Count a failure; say it, unless it is said already."""
        first, self.error = self.error is None, error
        self.failures += 1
        self._in_a_row += 1
        told = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
        self._last = mask_text(told)
        if first:
            log.warning("%s cannot be written (%s): %s", self._path, self._last, self._meanwhile)

    def worked(self, outcome: str = "") -> None:
        """Take note of a success; say it if the attempt before it failed, and with it the `outcome`."""
        if self.error is None:
            return
        self.error = None
        attempts, self._in_a_row = self._in_a_row, 0
        log.warning("%s can be written again: %s", self._path, outcome or f"{attempts} attempt(s) had failed")

    def summary(self) -> dict[str, Any]:
        """Return how many attempts failed in all, the last reason, and whether it still fails; {} without a failure."""
        if not self.failures:
            return {}
        return {"failures": self.failures, "last_error": self._last, "failing": self.error is not None}
