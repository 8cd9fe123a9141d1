"""Which metrics say less than their neighbours."""

from __future__ import annotations

__all__ = ["DULL"]

#: Endings of their names.
DULL = ("loss_on", "loss_off", "scaled_loss", "coder_mean", "n_noise_points")
