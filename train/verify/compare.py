"""What two runs have recorded, step by step, and the first thing in which they differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expkit.journal import read_journal, stable

__all__ = [
    "GENERATOR",
    "KINDS",
    "Difference",
    "Recording",
    "first_difference",
    "first_journal_difference",
    "repeated_batch",
]

#: What is compared at a step, in this order: each depends on those before it.
KINDS = {
    "batch": "the batch",
    "rng": "the state of a random generator",
    "loss": "the loss",
    "weights": "the weights",
    "optimizer": "the optimizer's state",
    "scheduler": "the scheduler's state",
    "journal": "the journal",
}
#: How the text of a random generator begins.
GENERATOR = "a random generator"

_ABSENT = "not there"


@dataclass(frozen=True)
class Difference:
    """The first thing that differs.

    Attributes:
        kind: one of `KINDS`.
        step: at which.
        name: of the tensor, generator, metric or key.
        expected, found: in the run that was never stopped, and in the other one.
        count: how many of this kind differ at this step.
        restored: it differs right after the resume, before any step.
    """

    kind: str
    step: int
    name: str
    expected: str
    found: str
    count: int
    restored: bool = False


class Recording:
    """What one run has recorded.

    Args:
        file: as `train.verify.child` writes it; a last line may be torn.

    Attributes:
        start: the step that it began at.
        restored: the state that it began with.
        steps: step -> what was seen at it.
    """

    def __init__(self, file: Path) -> None:
        entries = list(_lines(file))
        self.restored: Mapping[str, Any] = next((each for each in entries if each["kind"] == "restored"), {})
        self.start = int(self.restored.get("step", 0))
        self.steps: dict[int, Mapping[str, Any]] = {each["step"]: each for each in entries if each["kind"] == "step"}

    def state(self, step: int) -> Mapping[str, Any]:
        """Return what was recorded when `step` updates were done."""
        return self.restored if step == self.start else self.steps.get(step, {})


def first_difference(whole: Recording, other: Recording) -> Difference | None:
    """Return the first thing in which `other` differs from `whole`, from where `other` began to its last step."""
    expected = whole.state(other.start)
    found = _of_step(expected, other.restored, ("weights", "optimizer", "scheduler"), other.start, restored=True)
    if found is not None:
        return found
    for step, entry in sorted(other.steps.items()):
        kinds = [kind for kind in KINDS if kind != "journal"]
        found = _of_step(whole.steps.get(step, {}), entry, kinds, step)
        if found is not None:
            return found
    return None


def first_journal_difference(whole: Path, other: Path) -> tuple[Difference | None, int]:
    """Return the first difference of two journals (what differs by nature, such as times, aside), and their lines."""
    one, two = ([stable(entry) for entry in read_journal(file)] for file in (whole, other))
    for number in range(max(len(one), len(two))):
        before, after = (entries[number] if number < len(entries) else {} for entries in (one, two))
        if repr(before) == repr(after):  # NaN equals itself in a text
            continue
        step = int((before or after)["step"])
        names = {*before, *after}
        if not before or not after or before["step"] != after["step"]:
            names = {"step"}
        texts = {name: (repr(before.get(name, _ABSENT)), repr(after.get(name, _ABSENT))) for name in sorted(names)}
        differing = [name for name, (a, b) in texts.items() if a != b] or sorted(names)
        name = differing[0]
        return Difference("journal", step, f"line {number + 1}, {name}", *texts[name], len(differing)), len(one)
    return None, len(one)


def repeated_batch(whole: Recording, other: Recording, step: int) -> int | None:
    """Return the step of `whole` that had the batch which `other` has at `step`, if there is one."""
    batch = other.steps[step]["batch"]
    return next((at for at, entry in whole.steps.items() if at != step and entry["batch"] == batch), None)


def _of_step(
    expected: Mapping[str, Any], found: Mapping[str, Any], kinds: Iterable[str], step: int, restored: bool = False
) -> Difference | None:
    for kind in kinds:
        one, two = expected.get(kind, {}), found.get(kind, {})
        names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
        if names:
            name = names[0]
            texts = one.get(name, _ABSENT), two.get(name, _ABSENT)
            return Difference(kind, step, name, *texts, len(names), restored)
    return None


def _lines(file: Path) -> Iterator[Mapping[str, Any]]:
    lines: Sequence[bytes] = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    for line in lines:
        if line.endswith(b"\n"):
            yield json.loads(line)
