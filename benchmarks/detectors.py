"""What watching costs: 100,000 records shown to each detector; and what the spike rules find."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness import Comparison, Goal, compare
from expkit.detectors import Detector, Event
from expkit.detectors.accuracy_drop import AccuracyDrop
from expkit.detectors.best_model import BestModel
from expkit.detectors.divergence import Divergence
from expkit.detectors.gradient_spike import GradientSpike
from expkit.detectors.loss_spike import LossSpike
from expkit.detectors.loss_spike_robust import LossSpikeRobust
from expkit.detectors.nonfinite import NonFinite
from expkit.detectors.plateau import Plateau
from expkit.detectors.stalled import Stalled
from expkit.detectors.threshold import Threshold
from expkit.record import Record
from tests.expkit.detectors.planted import SPIKES, curve, events

__all__ = ["TEXT", "THREADS", "measure"]

RECORDS = 100_000
SEEDS = 20
THREADS = "one thread"
BASELINE = "a detector that does nothing"
TEXT = """\
The first table: 100,000 records, each with a loss, a gradient norm, an accuracy and the time, shown to one detector
after the other, in seconds of this process's CPU. A record of the runner has a loss for every step; the rules for
spikes take as long for each of them as for a record here.

The second: curves of 10,000 steps, 20 of each kind, as `tests/expkit/detectors/planted.py` makes them. *Found*: of nine
spikes of 0.5 to 3 nats in a language model's loss, those with an event of their very step, the least and the most over
the curves. *False alarms*, on all 20 together: of that curve without spikes; of one whose noise has heavy tails
(Student's t with 5 degrees of freedom, the same standard deviation); and of a skewed one (a loss of 0.005 times a
log-normal factor of sigma 1, as a small classifier's that has learned its data)."""


class _Nothing(Detector):
    def observe(self, record: Record) -> list[Event]:  # noqa: ARG002
        return []


#: Of the first table; those of the second are below.
DETECTORS: dict[str, Callable[[], Detector]] = {
    BASELINE: _Nothing,
    "`loss_spike`": LossSpike,
    "`loss_spike_robust`": LossSpikeRobust,
    "`loss_spike_robust` of `standard`": lambda: LossSpikeRobust(log_threshold=4.0),
    "`gradient_spike`": GradientSpike,
    "`accuracy_drop`": AccuracyDrop,
    "`best_model`": BestModel,
    "`divergence`": Divergence,
    "`plateau`": Plateau,
    "`threshold`": Threshold,
    "`nonfinite`": NonFinite,
    "`stalled`": Stalled,
}
RULES: dict[str, Callable[[], Detector]] = {
    "`loss_spike`, conservative (10 %)": lambda: LossSpike(threshold=0.1, cooldown=250),
    "`loss_spike` (30 %)": LossSpike,
    "`loss_spike`, aggressive (50 %)": lambda: LossSpike(threshold=0.5, cooldown=1000),
    "`loss_spike_robust`": LossSpikeRobust,
    "`loss_spike_robust` of `standard` (`log_threshold=4`)": lambda: LossSpikeRobust(log_threshold=4.0),
    "`gradient_spike` on the loss (mean + 6 sigma)": lambda: GradientSpike(metric="train_loss"),
    "`divergence` on the training loss": Divergence,
    "`divergence` of `standard` (`min_rise=0.05`, `max_ratio=3`)": lambda: Divergence(min_rise=0.05, max_ratio=3.0),
}


@dataclass(frozen=True)
class _Both:
    times: Comparison
    found: Mapping[str, Sequence[int]]

    def markdown(self) -> str:
        lines = ["| rule | found of 9 | false alarms: clean | heavy tails | skewed |", "|---|---:|---:|---:|---:|"]
        for name, (least, most, *alarms) in self.found.items():
            lines.append(f"| {name} | {least} to {most} | {' | '.join(map(str, alarms))} |")
        return f"{self.times.markdown()}\n\n" + "\n".join(lines)


def measure(rounds: int = 3, records: int = RECORDS, seeds: int = SEEDS) -> _Both:
    """Return the CPU seconds of each detector, and what the rules find."""
    noise = random.Random(0)
    shown = [
        Record(
            step,
            1,
            1.7e9 + step,
            {"train_loss": 3 + noise.gauss(0, 0.1), "gradient_norm": 1 + noise.gauss(0, 0.1), "val_accuracy": 50.0},
        )
        for step in range(1, records + 1)
    ]

    def seconds(new: Callable[[], Detector]) -> float:
        detector = new()
        began = time.process_time()
        for record in shown:
            detector.observe(record)
        return time.process_time() - began

    competitors = {name: lambda new=new: seconds(new) for name, new in DETECTORS.items()}
    return _Both(compare(competitors, BASELINE, "seconds", rounds=rounds), _found(seeds))


def goals(both: _Both) -> list[Goal]:
    """Return the goal: every spike found, and nothing else."""
    least, _, clean, *_ = both.found["`loss_spike_robust`"]
    return [
        Goal(
            f"`loss_spike_robust`: 9 of 9 spikes and no false alarm on {SEEDS} curves",
            f"{least} of 9 at least, {clean} false alarms",
            least == len(SPIKES) and clean == 0,
        )
    ]


def _found(seeds: int) -> dict[str, Sequence[int]]:
    """Return rule -> the least and the most spikes found, and false alarms: clean, heavy tails, skewed."""
    rules: dict[str, Sequence[int]] = {}
    for name, new in RULES.items():
        found = [sum(event.step in SPIKES for event in events(new(), curve(seed, SPIKES))) for seed in range(seeds)]
        alarms = (sum(len(events(new(), kind(seed))) for seed in range(seeds)) for kind in (curve, _heavy, _skewed))
        rules[name] = (min(found), max(found), *alarms)
    return rules


def _heavy(seed: int) -> list[float]:
    noise = random.Random(1000 + seed)

    def student() -> float:
        return noise.gauss(0, 1) / math.sqrt(noise.gammavariate(2.5, 2) / 5) * math.sqrt(3 / 5)

    return [2.8 + 8 * (1 + step / 40) ** -0.5 + 0.035 * student() for step in range(1, 10_001)]


def _skewed(seed: int) -> list[float]:
    noise = random.Random(2000 + seed)
    return [0.005 * math.exp(noise.gauss(0, 1)) + 2 * math.exp(-step / 60) for step in range(1, 10_001)]
