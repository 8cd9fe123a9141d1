"""The host's memory is nearly full: what follows is a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expkit.detectors.threshold import Threshold

__all__ = ["Memory"]


class Memory(Threshold):
    """Alarms when the host's memory, all processes together, has been nearly full at `records` records in a row.

    Args:
        metric: what is watched, at each record; None: memory/percent.
        threshold: percent; or first step -> percent.
        records: so many that have the metric, in a row.
        warmup: up to this step nothing is said.
        cooldown: the least number of steps between two events.
        respond: what is done about events.

    Raises:
        ConfigError: a value that cannot be.
    """

    option = kind = "memory"
    names = ("memory/percent",)

    def __init__(
        self,
        *,
        metric: str | None = None,
        threshold: float | Mapping[int, float] = 90.0,
        records: int = 3,
        warmup: int = 0,
        cooldown: int = 500,
        respond: Sequence[str] = ("alert",),
    ) -> None:
        super().__init__(
            metric=metric, threshold=threshold, records=records, warmup=warmup, cooldown=cooldown, respond=respond
        )
