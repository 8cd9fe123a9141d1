"""Which batch size to take, and why; and which sizes to try next, where nobody has said."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeps.profile.result import Profile

__all__ = ["ENOUGH", "MOST_MEMORY", "Recommendation", "auto_sizes", "loss_noise", "recommend", "with_equal_time"]

#: Shares of the best throughput, and of the memory there is.
ENOUGH, MOST_MEMORY = 0.95, 0.85
#: A doubling that brings less than this is the last one.
_GAIN = 0.05
_REFINEMENTS = 2
#: Step times that vary by a larger part of their median are no sound basis.
_STEADY = 0.15
#: A difference of losses is more than noise above so many standard deviations of it.
_SIGMAS = 2.0


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes:
        batch_size: None if no size was measured to the end.
        why: the rule that chose it, in one sentence.
        best: the size with the highest throughput.
        notes: what to know before it is used.
    """

    batch_size: int | None
    why: str
    best: int | None = None
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values, with the override to type."""
        override = None if self.batch_size is None else f"trainer.batch_size={self.batch_size}"
        return {**dataclasses.asdict(self), "override": override}


def recommend(profiles: Sequence[Profile]) -> Recommendation:
    """Return the smallest size with at least 95 % of the best throughput and at most 85 % of the memory."""
    measured = [each for each in profiles if each.ok and each.samples_per_second]
    if not measured:
        return Recommendation(None, "no batch size was measured to the end")
    best = max(measured, key=_rate)
    room = [each for each in measured if (each.memory_share or 0.0) <= MOST_MEMORY]
    fast = [each for each in room if _rate(each) >= ENOUGH * _rate(best)]
    free = f"{100 - 100 * MOST_MEMORY:.0f} % of the memory free"
    rule = f"at least {100 * ENOUGH:.0f} % of the best throughput and at most {100 * MOST_MEMORY:.0f} % of the memory"
    if fast:
        chosen, why = min(fast, key=_size), f"the smallest size with {rule}"
    elif room:
        chosen = max(room, key=_rate)
        why = f"no size has {rule}: of those that leave {free} this is the fastest"
    else:
        chosen = min(measured, key=lambda each: (each.memory_share or 0.0, each.batch_size))
        why = f"no size leaves {free}: this one takes the least"
    return Recommendation(chosen.batch_size, why, best.batch_size, list(_notes(chosen, best, profiles)))


def _notes(chosen: Profile, best: Profile, profiles: Sequence[Profile]) -> list[str]:
    measured = [each for each in profiles if each.ok and each.loss is not None]
    notes = []
    finite = [each for each in measured if math.isfinite(each.loss or 0.0)]
    if chosen.loss is not None and not math.isfinite(chosen.loss):
        notes.append(f"its loss is not finite ({chosen.loss}): lower the learning rate before you compare")
    elif chosen.loss is not None:
        lowest = min(finite, key=lambda each: each.loss or 0.0)
        noise = math.hypot(loss_noise(chosen), loss_noise(lowest))
        if chosen.loss - (lowest.loss or 0.0) > _SIGMAS * noise and lowest is not chosen:
            notes.append(
                f"after the same samples its {_kind(chosen)} loss, {chosen.loss:.4f}, is worse than the "
                f"{lowest.loss:.4f} of {lowest.batch_size:,} by more than the noise ({_SIGMAS:g} x {noise:.2g}): a "
                "larger batch makes fewer updates, so tune the learning rate for it, or train longer"
            )
    timed = [each for each in finite if _equal_time(each) is not None]
    if len(timed) > 1:
        lowest = min(timed, key=lambda each: _equal_time(each) or 0.0)
        if lowest.batch_size != chosen.batch_size:
            notes.append(
                f"after the same time {lowest.batch_size:,} has the lowest {_kind(lowest)} loss, with this "
                "learning rate"
            )
    scales = sorted(each.noise_scale for each in measured if each.noise_scale is not None)
    if scales:
        scale = scales[len(scales) // 2]
        notes.append(
            f"the gradient noise scale is about {_rounded(scale):,} samples at the end of this training: batches well "
            "above it gain little per sample, those well below it need hardly more samples"
        )
    varied = [each for each in (chosen, best) if _spread(each) > _STEADY]
    if varied:
        notes.append(
            f"the step times of {varied[0].batch_size:,} vary (interquartile "
            f"range {100 * _spread(varied[0]):.0f} % of the median): where others use this machine, "
            "measure again when they do not"
        )
    largest = max((each.batch_size for each in profiles), default=0)
    if best.batch_size == largest and len(profiles) > 1 and best is chosen:
        notes.append("it is the largest size tried, and the fastest: larger ones may be faster still")
    return notes


def loss_noise(profile: Profile) -> float:
    """Return how far the losses of the second half of a curve lie from a straight line, as a standard deviation.

    A curve of fewer than four such points says nothing of noise: 0.
    """
    place = 1 if profile.final_test_loss is None else 2
    values = [
        value for point in profile.curve if isinstance(value := point[place], int | float) and math.isfinite(value)
    ]
    values = values[len(values) // 2 :]
    n = len(values)
    if n < 4:
        return 0.0
    middle, mean = (n - 1) / 2, sum(values) / n
    slope = sum((x - middle) * (y - mean) for x, y in enumerate(values)) / sum((x - middle) ** 2 for x in range(n))
    squares = sum((y - mean - slope * (x - middle)) ** 2 for x, y in enumerate(values))
    return math.sqrt(squares / (n - 2))


def with_equal_time(profiles: Sequence[Profile]) -> float | None:
    """Fill in the losses after equal time: that which the fastest size needs for all of its samples. Return it.

    In t seconds a size sees t x `samples_per_second` samples; between two points of its curve a straight line is drawn.
    """
    measured = [each for each in profiles if each.ok and each.samples_per_second and each.curve]
    if not measured:
        return None
    seconds = min(each.curve[-1][0] / _rate(each) for each in measured)
    for each in measured:
        seen = min(seconds * _rate(each), each.curve[-1][0])
        each.train_loss_equal_time = _at(each.curve, seen, 1)
        each.test_loss_equal_time = _at(each.curve, seen, 2)
    return seconds


def auto_sizes(measure: Callable[[int], Profile], start: int, step: int = 1) -> None:
    """Measure sizes: doubled from `start` until one fails or the gain is under 5 %, then some between.

    Args:
        measure: measures a size, and returns what came of it.
        start: the first.
        step: what all sizes must be a multiple of.
    """
    profiles = [measure(start)]
    while profiles[-1].ok and (profiles[-1].samples is None or 2 * profiles[-1].batch_size <= profiles[-1].samples):
        profiles.append(measure(2 * profiles[-1].batch_size))
        if profiles[-1].ok and _rate(profiles[-1]) < (1 + _GAIN) * max(map(_rate, profiles[:-1])):
            break
    if not profiles[0].ok:
        return
    for _ in range(_REFINEMENTS):
        between = _between(profiles, step)
        if between is None:
            return
        profiles.append(measure(between))


def _between(profiles: Sequence[Profile], step: int) -> int | None:
    """Return the size, not tried yet, that may change the recommendation: just below it, or below what failed."""
    ordered = sorted(profiles, key=_size)
    good = [each for each in ordered if each.ok]
    bad = [each for each in ordered if not each.ok and each.batch_size > good[-1].batch_size]
    chosen = recommend(ordered).batch_size
    if bad and chosen == good[-1].batch_size:
        low, high = chosen, bad[0].batch_size
    else:
        smaller = [each.batch_size for each in good if each.batch_size < (chosen or 0)]
        low, high = (smaller[-1] if smaller else 0), chosen or 0
    middle = (low + high) // 2
    unit = step * 8 if middle >= 64 * step else step  # GPUs like multiples of 8
    middle -= middle % unit
    return middle if low and low < middle < high else None


def _at(curve: Sequence[tuple[int, float | None, float | None]], seen: float, place: int) -> float | None:
    points = [(point[0], value) for point in curve if isinstance(value := point[place], int | float)]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= seen <= x1:
            return y0 + (y1 - y0) * (seen - x0) / (x1 - x0)
    return points[-1][1] if points and seen >= points[-1][0] else None


def _rounded(value: float) -> int:
    """Return two digits of it: more would be a pretence."""
    unit = int(10 ** max(0, int(math.log10(max(value, 1))) - 1))
    return max(1, round(value / unit) * unit)


def _kind(profile: Profile) -> str:
    return "train" if profile.final_test_loss is None else "test"


def _equal_time(profile: Profile) -> float | None:
    value = profile.train_loss_equal_time if profile.final_test_loss is None else profile.test_loss_equal_time
    return value if value is not None and math.isfinite(value) else None


def _rate(profile: Profile) -> float:
    return profile.samples_per_second or 0.0


def _size(profile: Profile) -> int:
    return profile.batch_size


def _spread(profile: Profile) -> float:
    """Return the interquartile range of the step time as a part of its median."""
    return (profile.step_time_iqr or 0.0) / profile.step_time if profile.step_time else 0.0
