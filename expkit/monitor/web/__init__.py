"""The face for browsers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expkit.errors import UserError

if TYPE_CHECKING:
    from expkit.monitor.monitor import TrainingMonitor

__all__ = ["serve"]


def serve(monitor: TrainingMonitor, interval: float, host: str, port: int | None) -> None:  # noqa: ARG001
    """Serve the page until Ctrl-C."""
    raise UserError("--web: not there yet")
