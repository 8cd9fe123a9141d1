"""What to keep: small policies, each of which picks checkpoints that must stay. What none of them picks is deleted.

They compose, and make tiers: `LatestN(3)` for the frequent, temporary ones; `EveryNHours(1, newest=24)` for periodic
ones; `EveryNSteps(10_000)` and `BestN(1)` for those that stay for good. Besides, `CheckpointFolder` never deletes the
last one that is known to be valid, the best, or the one resumed from.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from expkit.errors import UserError

__all__ = ["BestN", "EveryNHours", "EveryNSteps", "KeepAny", "KeepPolicy", "LatestN", "Saved", "keep_also", "score"]


@dataclass(frozen=True)
class Saved:
    """What retention knows of a checkpoint.

    Attributes:
        step: updates done.
        time: when it was saved, in seconds since 1970.
        metrics: what was recorded at its step.
        score: of the monitored metric, lower is better; None where it was not measured, or was NaN.
    """

    step: int
    time: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    score: float | None = None


def score(metrics: Mapping[str, float], metric: str, mode: str) -> float | None:
    """Return the value of `metric`, negated where a high one is good; None if it is not there, or NaN."""
    value = metrics.get(metric)
    return None if value is None or math.isnan(value) else -value if mode == "max" else value


class KeepPolicy(ABC):
    """Picks checkpoints that must stay."""

    @abstractmethod
    def keep(self, saved: Sequence[Saved]) -> set[int]:
        """Return the steps of those that must stay, of all valid ones, which come newest first.

        It must go on picking one that it has picked, until another takes its place: what is deleted is gone.
        """


@dataclass(frozen=True)
class LatestN(KeepPolicy):
    """The newest `n`."""

    n: int

    def __post_init__(self) -> None:
        _check("n", self.n)

    def keep(self, saved: Sequence[Saved]) -> set[int]:
        """See `KeepPolicy.keep`."""
        return {each.step for each in saved[: self.n]}


@dataclass(frozen=True)
class BestN(KeepPolicy):
    """The `n` best, of those at whose step the metric was measured, and was not NaN.

    Args:
        n: how many; 0 for none.
        metric: by which; None for the monitored one (`mode` is then the manager's, too).
        mode: whether a low or a high value is good.
    """

    n: int = 1
    metric: str | None = None
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        _check("n", self.n, least=0)
        if self.mode not in ("min", "max"):
            raise UserError(f"mode={self.mode}: what is best is the min or the max")

    def keep(self, saved: Sequence[Saved]) -> set[int]:
        """See `KeepPolicy.keep`; of equally good ones the earliest stay, which were the best when they came."""
        scored = [(score, each.step) for each in saved if (score := self._score(each)) is not None]
        return {step for score, step in sorted(scored)[: self.n]}

    def _score(self, saved: Saved) -> float | None:
        if self.metric is None:
            return saved.score
        return score(saved.metrics, self.metric, self.mode)


@dataclass(frozen=True)
class EveryNSteps(KeepPolicy):
    """Those whose step is a multiple of `n`; with `newest`, only so many of them."""

    n: int
    newest: int | None = None

    def __post_init__(self) -> None:
        _check("n", self.n)
        _check("newest", self.newest, optional=True)

    def keep(self, saved: Sequence[Saved]) -> set[int]:
        """See `KeepPolicy.keep`."""
        return set([each.step for each in saved if each.step % self.n == 0][: self.newest])


@dataclass(frozen=True)
class EveryNHours(KeepPolicy):
    """The first of each `hours` hours of the clock; with `newest`, only so many of them."""

    hours: float
    newest: int | None = None

    def __post_init__(self) -> None:
        _check("hours", self.hours, whole=False)
        _check("newest", self.newest, optional=True)

    def keep(self, saved: Sequence[Saved]) -> set[int]:
        """See `KeepPolicy.keep`."""
        first: dict[int, int] = {}
        for each in saved:  # newest first: the first of an hour comes last, and stays in its place
            first[int(each.time // (3600 * self.hours))] = each.step
        return set(list(first.values())[: self.newest])


@dataclass(frozen=True)
class KeepAny(KeepPolicy):
    """Those that one of `policies` keeps."""

    policies: Sequence[KeepPolicy]

    def keep(self, saved: Sequence[Saved]) -> set[int]:
        """See `KeepPolicy.keep`."""
        return set().union(*(policy.keep(saved) for policy in self.policies))


def keep_also(
    best: int = 1,
    every_steps: int | None = None,
    every_steps_n: int | None = None,
    every_hours: float | None = None,
    every_hours_n: int | None = None,
    also: Sequence[KeepPolicy] = (),
) -> KeepAny:
    """Return the policies that these settings stand for, as one. It is what `checkpoint.keep` of the runner is.

    Args:
        best: how many of the best, see `BestN`.
        every_steps: see `EveryNSteps`; None for none, as with `every_hours`.
        every_steps_n: how many of these, the newest; None for all.
        every_hours: see `EveryNHours`.
        every_hours_n: how many of these, the newest; None for all.
        also: policies of one's own.

    Raises:
        UserError: (a ValueError) a number cannot be used, or one of `also` is no policy.
    """
    for name, number, interval in (("steps", every_steps_n, every_steps), ("hours", every_hours_n, every_hours)):
        if number is not None and interval is None:
            raise UserError(f"every_{name}_n={number} has no effect without every_{name}")
    for policy in also:
        if not callable(getattr(policy, "keep", None)):
            raise UserError(f"also: a {type(policy).__name__} is no policy: it has no method keep(saved)")
    policies: list[KeepPolicy] = [
        BestN(best),
        *([EveryNSteps(every_steps, every_steps_n)] if every_steps is not None else ()),
        *([EveryNHours(every_hours, every_hours_n)] if every_hours is not None else ()),
    ]
    return KeepAny((*policies, *also))


def _check(name: str, value: float | None, least: float = 1, whole: bool = True, optional: bool = False) -> None:
    if value is None and optional:
        return
    right = isinstance(value, int) or (isinstance(value, float) and not whole)
    if isinstance(value, bool) or not right or value is None or not (value >= least if whole else value > 0):
        bound = f"a whole number of at least {least:g}" if whole else "a number, more than 0"
        raise UserError(f"{name}={value}: it must be {bound}")
