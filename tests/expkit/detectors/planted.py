"""A loss curve as a language model has, clean or with spikes at known steps."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping

from expkit.detectors import Detector, Event
from expkit.record import Record

__all__ = ["EVERY", "SPIKES", "curve", "events", "records"]

EVERY = 10  # steps between two records
STEPS = 10_000
#: First step -> height in nats: nine, from 0.5 to 3, at the first and at the last step of a record too. No low one
#: comes early: in the first thousand steps the curve falls so fast that 0.5 is not far out.
SPIKES = {730 + 1031 * place: 0.5 + 2.5 * ((5 * place + 4) % 9) / 8 for place in range(9)}


def curve(seed: int, spikes: Mapping[int, float] | None = None, steps: int = STEPS) -> list[float]:
    """Return the loss of steps 1 to `steps`.

    A power law from 10.8 down to 3.3 nats, as GPT-2's on web text. The noise of a batch is normal, 0.035 nats, with a
    slow wander (an autoregressive process of 0.01 nats, correlated over 50 steps) upon it. A spike decays in 5 steps.
    """
    noise = random.Random(seed)
    losses, wander = [], 0.0
    for step in range(1, steps + 1):
        wander = 0.98 * wander + 0.01 * math.sqrt(1 - 0.98**2) * noise.gauss(0, 1)
        losses.append(2.8 + 8.0 * (1 + step / 40) ** -0.5 + wander + noise.gauss(0, 0.035))
    for first, height in (spikes or {}).items():
        for after in range(25):
            losses[first - 1 + after] += height * math.exp(-after / 5)
    return losses


def records(losses: list[float]) -> Iterator[Record]:
    """Yield the records of a run with such a loss, as the runner makes them."""
    for start in range(0, len(losses), EVERY):
        series = losses[start : start + EVERY]
        step = start + len(series)
        yield Record(step, 1, 1.7e9 + step, {"train_loss": sum(series) / len(series)}, {}, {"train_loss": series})


def events(detector: Detector, losses: list[float]) -> list[Event]:
    """Return what a detector says of a run with such a loss."""
    return [event for record in records(losses) for event in detector.observe(record)]
