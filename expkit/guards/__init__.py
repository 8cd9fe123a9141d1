"""Guards decide on the device, at every step, whether an update is skipped."""

from expkit.guards.base import Guard

__all__ = ["Guard"]
