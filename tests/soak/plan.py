"""What happens in a soak, and at which step, drawn from its seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PERIOD", "Planned", "plan"]

#: Seconds from update to update: many times what an update takes, so that a busy machine keeps the pace.
PERIOD = 0.025
#: Seconds that the undisturbed training and each restart take, about; from which the number of steps follows.
_REFERENCE, _RESTART = 0.06, 14.0
#: Faults come in this part of the steps; after it the training goes on to its end undisturbed.
_FIRST, _LAST = 0.04, 0.6
#: One fault in so many seconds, about.
_EVERY = 70.0


@dataclass(frozen=True)
class Planned:
    """A fault that is to come.

    Attributes:
        kind: a key of `tests.soak.faults.FAULTS`.
        step: when it comes: once this step is done.
        seconds: that it may last at most.
        seed: of what it draws itself.
    """

    kind: str
    step: int
    seconds: float
    seed: int


def plan(minutes: float, seed: int, kinds: Sequence[str], restarting: Sequence[str]) -> tuple[int, list[Planned]]:
    """Return after how many steps the training ends, and the faults on the way, in order.

    Args:
        minutes: that the whole soak is to take, about.
        seed: the same one, the same faults at the same steps.
        kinds: of faults; each comes once, and more often in a longer soak.
        restarting: those of them after which the training is started again.
    """
    rng = random.Random(seed)
    seconds = 60 * minutes
    drawn = list(kinds)
    while len(drawn) < 0.6 * seconds / _EVERY:
        drawn += rng.sample(list(kinds), len(kinds))
    drawn = drawn[: max(len(kinds), int(0.6 * seconds / _EVERY))]
    rng.shuffle(drawn)
    away = 10 + _REFERENCE * seconds + _RESTART * sum(kind in restarting for kind in drawn)
    steps = round(max(seconds - away, 0.3 * seconds) / PERIOD)
    # One in each of as many parts of equal length: a fault that another one hides shows nothing.
    part = (_LAST - _FIRST) * steps / len(drawn)
    at = [int(_FIRST * steps + (number + rng.uniform(0.1, 0.9)) * part) for number in range(len(drawn))]
    return steps, [
        Planned(kind, step, part * PERIOD, rng.randrange(1 << 30)) for kind, step in zip(drawn, at, strict=True)
    ]
