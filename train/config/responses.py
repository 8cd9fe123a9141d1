"""The section `responses` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from expkit.errors import UserError
from expkit.webhook import Webhook

__all__ = ["ResponseSettings"]

_LEAST, _MOST = 2, 200


@dataclass(frozen=True)
class ResponseSettings:
    """The section `responses` of the configuration.

    Attributes:
        lr_factor: what `lower_lr` multiplies the learning rate by.
        rewind_back: steps that a checkpoint must be older than the trouble, for `rewind` to take it.
        rewind_clean: steps after a checkpoint without a warning that make it a good one.
        rewind_skip: batches that are passed over after a rewind: that of the trouble, and those around it, half of them
            before it. auto: a fiftieth of the run, from 2 to 200.
        rewind_times: rewinds of a run, at most; then it is stopped.
        webhook: where alerts are posted, or None.
    """

    lr_factor: float = 0.5
    rewind_back: int = 100
    rewind_clean: int = 100
    rewind_skip: int | str = "auto"
    rewind_times: int = 3
    webhook: str | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.lr_factor, int | float) and not isinstance(self.lr_factor, bool)
        if not number or not 0 < self.lr_factor < 1:
            raise UserError(f"lr_factor={self.lr_factor}: a number above 0 and below 1")
        for key in ("rewind_back", "rewind_clean", "rewind_skip", "rewind_times"):
            value, auto = getattr(self, key), key == "rewind_skip"
            if auto and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UserError(f"{key}={value}: a whole number, 0 or more{', or auto' if auto else ''}")
        if self.webhook is not None:
            Webhook(self.webhook)

    def batches_around(self, total_steps: int | None) -> int:
        """Return how many batches around the trouble a rewind passes over, in a run of so many steps, if that is known.

        A run of 10,000 steps or more leaves out 200, as PaLM did (Chowdhery et al. 2022, 5.1: back about 100 steps, and
        past 200 to 500 batches); a short one no larger share of what it learns from.
        """
        if isinstance(self.rewind_skip, int):
            return self.rewind_skip
        return _MOST if total_steps is None else min(_MOST, max(_LEAST, total_steps // 50))
