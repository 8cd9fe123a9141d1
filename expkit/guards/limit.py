"""The guard of detectors that watch the loss or the gradient norm: no update while it is too high, or no number."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any, Literal

from expkit.guards.base import Guard

if TYPE_CHECKING:
    import torch

__all__ = ["LimitGuard"]


class LimitGuard(Guard):
    """Skips updates whose loss or gradient norm is above a limit, NaN or infinite.

    The limit is +inf at first. Whoever knows a better one sets it between two updates: the comparison is made on the
    device, and nothing waits for it.

    Args:
        on: what is looked at. A gradient norm that nobody has computed is passed over.
        finite_only: there is no limit: only NaN and infinities are skipped.
    """

    def __init__(self, on: Literal["loss", "gradient_norm", "both"] = "loss", finite_only: bool = False) -> None:
        self.on = on
        self.finite_only = finite_only
        self.needs_gradient_norm = on != "loss"
        self._limit = math.inf
        self._on_device: torch.Tensor | None = None

    @property
    def limit(self) -> float:
        """The limit, as the device has it: a float32."""
        return self._limit

    def set_limit(self, value: float) -> None:
        """Set the limit from the next update on; +inf lifts it.

        Raises:
            ValueError: it is NaN, with which every update would be skipped, or there is no limit to set.
        """
        if math.isnan(value) or self.finite_only:
            raise ValueError(f"set_limit({value}): " + ("not for finite_only" if self.finite_only else "a number"))
        self._limit = ctypes.c_float(value).value
        if self._on_device is not None:
            self._on_device.fill_(self._limit)  # in place: whatever was captured or compiled sees it

    def bad(self, loss: torch.Tensor, gradient_norm: torch.Tensor | None) -> torch.Tensor:
        """Return whether this update must not happen: () bool, on the device of `loss`."""
        import torch

        if self._on_device is None or self._on_device.device != loss.device:
            self._on_device = torch.full((), self._limit, dtype=torch.float32, device=loss.device)
        values = [loss.detach()] if self.on != "gradient_norm" else []
        if self.on != "loss" and gradient_norm is not None:
            values.append(gradient_norm.detach())
        bad = torch.zeros((), dtype=torch.bool, device=loss.device)
        for value in values:
            bad = bad | ~torch.isfinite(value)
            if not self.finite_only:
                bad = bad | (value > self._on_device)
        return bad

    def state_dict(self) -> dict[str, Any]:
        return {"limit": self._limit}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not self.finite_only:
            self.set_limit(state["limit"])
