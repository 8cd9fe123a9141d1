"""Guards decide on the device, at every step, whether an update is skipped."""

from expkit.guards.base import Guard
from expkit.guards.limit import LimitGuard

__all__ = ["Guard", "LimitGuard"]
