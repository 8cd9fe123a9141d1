"""The section `responses` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from expkit.errors import UserError
from expkit.webhook import Webhook

__all__ = ["ResponseSettings"]


@dataclass(frozen=True)
class ResponseSettings:
    """The section `responses` of the configuration.

    Attributes:
        lr_factor: what `lower_lr` multiplies the learning rate by.
        rewind_back: steps that a checkpoint must be older than the trouble, for `rewind` to take it.
        rewind_clean: steps after a checkpoint without a warning that make it a good one.
        rewind_skip: batches that are passed over after a rewind, at least up to and with that of the trouble.
        rewind_times: rewinds of a run, at most; then it is stopped.
        webhook: where alerts are posted, or None.
    """

    lr_factor: float = 0.5
    rewind_back: int = 100
    rewind_clean: int = 100
    rewind_skip: int = 200
    rewind_times: int = 3
    webhook: str | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.lr_factor, int | float) and not isinstance(self.lr_factor, bool)
        if not number or not 0 < self.lr_factor < 1:
            raise UserError(f"lr_factor={self.lr_factor}: a number above 0 and below 1")
        for key in ("rewind_back", "rewind_clean", "rewind_skip", "rewind_times"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UserError(f"{key}={value}: a whole number, 0 or more")
        if self.webhook is not None:
            Webhook(self.webhook)
