"""When to save: small policies, each of which looks at a moment of training and says why it wants a checkpoint of it.

Any of them is enough, and they compose: `AnyOf((EverySteps(1000), EveryMinutes(30), OnBest()))`. A policy of one's own
is any class with `reason(moment)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from expkit.errors import UserError
from expkit.schedule import Every, Progress

__all__ = [
    "AnyOf",
    "AtEnd",
    "AtSteps",
    "EveryEpochs",
    "EveryMinutes",
    "EverySteps",
    "Moment",
    "OnBest",
    "OnPreemption",
    "SavePolicy",
    "is_bundled",
    "save_when",
]


@dataclass(slots=True)
class Moment:
    """A step boundary, at which a checkpoint may be due.

    Attributes:
        progress: where the run stands.
        metrics: what was recorded at this step: the monitored metric is there after an evaluation only.
        is_best: the monitored metric is the best so far.
        stopping: somebody asked the run to stop before its end.
        ended: the last update has been done.
        asked: somebody asked for a checkpoint: the time limit of a job comes near, say.
    """

    progress: Progress
    metrics: dict[str, float] = field(default_factory=dict)
    is_best: bool = False
    stopping: bool = False
    ended: bool = False
    asked: bool = False


class SavePolicy(ABC):
    """Says whether a checkpoint is due."""

    @abstractmethod
    def reason(self, moment: Moment) -> str | None:
        """Return why a checkpoint of `moment` is due, in a few words for people, or None. Called at every step."""


@dataclass(frozen=True)
class EverySteps(SavePolicy):
    """Every `steps` updates."""

    steps: int
    _every: Every = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_interval("steps", self.steps)
        object.__setattr__(self, "_every", Every(steps=self.steps))

    def reason(self, moment: Moment) -> str | None:
        """See `SavePolicy.reason`."""
        return f"every {self.steps} steps" if self._every.due(moment.progress) else None


@dataclass(frozen=True)
class EveryMinutes(SavePolicy):
    """Every `minutes` of training, by rank 0's clock; what came before a resume counts."""

    minutes: float
    _every: Every = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_interval("minutes", self.minutes)
        object.__setattr__(self, "_every", Every(seconds=60 * self.minutes))

    def reason(self, moment: Moment) -> str | None:
        """See `SavePolicy.reason`."""
        return f"every {self.minutes:g} minutes" if self._every.due(moment.progress) else None


@dataclass(frozen=True)
class EveryEpochs(SavePolicy):
    """At the end of every `epochs`-th epoch."""

    epochs: int = 1
    _every: Every = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_interval("epochs", self.epochs)
        object.__setattr__(self, "_every", Every(epochs=self.epochs))

    def reason(self, moment: Moment) -> str | None:
        """See `SavePolicy.reason`."""
        return f"epoch {moment.progress.epoch}" if self._every.due(moment.progress) else None


@dataclass(frozen=True)
class AtSteps(SavePolicy):
    """After each of the listed numbers of updates."""

    steps: Sequence[int]

    def __post_init__(self) -> None:
        for step in self.steps:
            _check_interval("a listed step", step)

    def reason(self, moment: Moment) -> str | None:
        """See `SavePolicy.reason`."""
        return f"step {moment.progress.step}" if moment.progress.step in self.steps else None


@dataclass(frozen=True)
class OnBest(SavePolicy):
    """Whenever the monitored metric is the best so far."""

    def reason(self, moment: Moment) -> str | None:
        """See `SavePolicy.reason`."""
        return "best" if moment.is_best else None


@dataclass(frozen=True)
class OnPreemption(SavePolicy):
    """When the run is asked to stop before its end: by a scheduler, by Ctrl-C, by a response to an event."""

    def reason(self, moment: Moment) -> str | None:
        """See `SavePolicy.reason`."""
        return "stopped" if moment.stopping else None


@dataclass(frozen=True)
class AtEnd(SavePolicy):
    """After the last update."""

    def reason(self, moment: Moment) -> str | None:
        """See `SavePolicy.reason`."""
        return "end" if moment.ended else None


@dataclass(frozen=True)
class AnyOf(SavePolicy):
    """Whenever one of `policies` wants it."""

    policies: Sequence[SavePolicy]

    def reason(self, moment: Moment) -> str | None:
        """Return the reasons of all that want it, joined: "every 1000 steps, best"."""
        reasons = None
        for policy in self.policies:  # asked at every step: a plain loop takes half the time of a comprehension
            reason = policy.reason(moment)
            if reason is not None:
                reasons = reason if reasons is None else f"{reasons}, {reason}"
        return reasons


def is_bundled(policy: SavePolicy) -> bool:
    """Whether every process decides alike by `policy`: one of a user's own may go by a clock, or a file."""
    if type(policy) is AnyOf:
        return all(map(is_bundled, policy.policies))
    return type(policy) in (EverySteps, EveryMinutes, EveryEpochs, AtSteps, OnBest, OnPreemption, AtEnd)


def save_when(
    every_minutes: float | None = None,
    every_epochs: int | None = None,
    at_steps: Sequence[int] = (),
    on_best: bool = True,
    on_preemption: bool = True,
    at_end: bool = True,
    also: Sequence[SavePolicy] = (),
) -> AnyOf:
    """Return the policies that these settings stand for, as one. It is what `checkpoint.save` of the runner is.

    Args:
        every_minutes: see `EveryMinutes`; None for never, as with the next one.
        every_epochs: see `EveryEpochs`.
        at_steps: see `AtSteps`.
        on_best: see `OnBest`.
        on_preemption: see `OnPreemption`.
        at_end: see `AtEnd`.
        also: policies of one's own.

    Raises:
        UserError: (a ValueError) an interval is not positive, or one of `also` is no policy.
    """
    if every_minutes is not None:
        _check_interval("every_minutes", every_minutes)
    if every_epochs is not None:
        _check_interval("every_epochs", every_epochs)
    for step in at_steps:
        _check_interval("at_steps", step)
    policies: list[SavePolicy] = [
        *([EveryMinutes(every_minutes)] if every_minutes is not None else ()),
        *([EveryEpochs(every_epochs)] if every_epochs is not None else ()),
        *([AtSteps(tuple(at_steps))] if at_steps else ()),
        *([OnBest()] if on_best else ()),
        *([OnPreemption()] if on_preemption else ()),
        *([AtEnd()] if at_end else ()),
    ]
    for policy in also:
        if not callable(getattr(policy, "reason", None)):
            raise UserError(f"also: a {type(policy).__name__} is no policy: it has no method reason(moment)")
    return AnyOf((*policies, *also))


def _check_interval(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{name}={value} can never be due: it must be more than 0")
