"""What every detector that can be selected must fulfil: found by its YAML file, so a new one needs no new test."""

from __future__ import annotations

import io
import json
import math
import random
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from expkit.checkpoints.state import check_loadable
from expkit.detectors import Detector, Event
from expkit.detectors.base import checked_events
from expkit.record import Record
from tests.components import make, option_files

FILES = option_files("detectors")
EVERY = 10  # steps between two records
QUIET = 60  # records of a course that goes well
SPOILT = (20, 21, QUIET - 2)  # records of it that one test spoils, the last shortly before the spike
ENDS = (QUIET, QUIET + 30, QUIET + 50, QUIET + 130)  # of its phases

LAYER = {
    **{"principal_alignment": 0.1, "minor_alignment": 0.99, "subspace_angle": 0.3, "reconstruction_error": 0.5},
    **{"alignment_excess": 2.0, "mode": 0.0, "r": 54, "trainable_ratio": 1.7},
}

Make = Callable[[], Detector]


def course() -> list[Record]:
    """A run that learns for a while, and then meets all that a detector may look for.

    A detector that none of this moves needs a line here: the metric that it watches.
    """
    noise = random.Random(0)
    records = []
    for number in range(1, QUIET + 141):
        after = number - QUIET
        loss, norm, accuracy = 0.2 + 2.0 * math.exp(-number / 20), 1.0, 90.0 - 60 * math.exp(-number / 20)
        if after in (1, 2):  # a spike
            loss, norm = 1e6, 1e6
        elif 30 < after <= 50:  # it diverges
            loss, norm, accuracy = loss * 2.0 ** (after - 30), 2.0 ** (after - 30), 10.0
        elif 50 < after <= 130:  # nothing moves any more
            loss, norm, accuracy = 5.0, 0.0, 10.0
        elif after > 130:
            loss, norm, accuracy = math.nan, math.inf, math.nan
        losses = [loss * noise.uniform(0.95, 1.05) if not 50 < after <= 130 else loss for _ in range(EVERY)]
        metrics = {"train_loss": sum(losses) / EVERY, "gradient_norm": norm, "learning_rate": 1e-3}
        if number % 2 == 0:
            metrics |= {"val_loss": loss, "train_accuracy": accuracy, "val_accuracy": accuracy}
        if number % 2 == 0:  # a layer whose gradient lies in its principal directions, from the spike on for a while
            shares = {"principal_alignment": 0.9, "minor_alignment": 0.44} if 0 < after <= 30 else {}
            metrics |= {f"svd/layer/{name}": value for name, value in (LAYER | shares).items()}
        metrics["memory/percent"] = 95.0 if 30 < after <= 50 else 40.0
        series = {"train_loss": losses, "gradient_norm": [norm] * EVERY}
        time = 1.7e9 + number + (1000 if after > 40 else 0)  # where it stood still for a while
        records.append(Record(EVERY * number, 1 + number // 20, time, metrics, {}, series))
    # One without anything, and one of a loop that keeps no series.
    records[3] = Record(records[3].step, 1, records[3].time, {})
    records[7] = Record(records[7].step, 1, records[7].time, records[7].metrics)
    return records


def spoilt(record: Record, value: float) -> Record:
    """The same record, every number in it `value`."""
    series = {name: [value] * len(values) for name, values in record.series.items()}
    return Record(record.step, record.epoch, record.time, dict.fromkeys(record.metrics, value), {}, series)


def observe(detector: Detector, records: Iterable[Record]) -> list[Event]:
    return [event for record in records for event in checked_events(detector.observe(record))]


def through_a_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    check_loadable(state, "state_dict()")
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(state, allow_nan=False))
    return loaded


def check_events(new: Make) -> None:
    """Events are events, whatever comes."""
    detector, seen = new(), set()
    for record in course():
        found = detector.observe(record)
        assert type(found) is list
        for event in checked_events(found):
            assert event.detector == detector.name
            assert re.fullmatch(r"[\w.-]+", event.kind), "it can be a file's name"
            assert re.fullmatch(r"[\w.-]+", event.reason), "it is the name of a snapshot's folder"
            assert record.step - EVERY < event.step <= record.step
            assert event.message.strip() and "\n" not in event.message
            assert (event.kind, event.step) not in seen, "that is what identifies an event"
            seen.add((event.kind, event.step))
    assert seen, "nothing in `course` moves it: add what it watches"


def check_resume(new: Make) -> None:
    """A resume anywhere, in mid-window too, gives the same events as no interruption."""
    records = course()
    whole = repr(observe(new(), records))  # as text: NaN does not equal itself
    for first, way in ((0, through_a_checkpoint), (3, through_json), (5, through_json)):
        detector, events = new(), []
        for number, record in enumerate(records):
            if number % 7 == first:
                state, detector = way(detector.state_dict()), new()
                detector.load_state_dict(state)
            events += observe(detector, [record])
        assert repr(events) == whole, f"resumed after record {first} and every 7th"


def check_not_blinded(new: Make) -> None:
    """What a detector says of a course it says too after numbers that are none."""
    records = course()
    expected = phases(observe(new(), records))
    for value in (math.nan, math.inf, -math.inf):
        bad = [spoilt(record, value) if number in SPOILT else record for number, record in enumerate(records)]
        assert expected <= phases(observe(new(), bad)), f"after {value}"


def check_bounded(new: Make) -> None:
    """What it remembers does not grow with the run, nor what it does at a record."""
    detector, noise = new(), random.Random(1)
    sizes, calls = [], []
    for start in (0, 600, 1200):
        for number in range(start, start + 600):
            losses = [3 + noise.uniform(-0.1, 0.1) for _ in range(EVERY)]
            metrics = {"train_loss": losses[0], "gradient_norm": losses[1], "val_accuracy": 50 + losses[2]}
            step = EVERY * (number + 1)
            series = {"train_loss": losses, "gradient_norm": losses}
            record = Record(step, 1, 1.7e9 + number, metrics, {}, series)
            detector.observe(record)
        sizes.append(len(leaves(detector.state_dict())))
        calls.append(calls_of(lambda record=record: detector.observe(record)))
    assert max(sizes) <= 400
    assert sizes[2] <= sizes[1]
    assert calls[2] <= 1.5 * calls[0] + 10


def leaves(value: object) -> list[object]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    return [value] if inside is None else [leaf for each in inside for leaf in leaves(each)]


def calls_of(function: Callable[[], object]) -> int:
    """Count the calls, of builtins too, that `function` makes: a measure of its work that no other load disturbs."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def phases(events: list[Event]) -> set[tuple[str, int]]:
    """What was said, and in which phase after the quiet one."""
    told = {(event.kind, sum(event.step > EVERY * end for end in ENDS)) for event in events}
    return {(kind, phase) for kind, phase in told if phase > 0}


CHECKS = (check_events, check_resume, check_not_blinded, check_bounded)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_detector_keeps_the_contract(file: Path, page: Path, check: Callable[[Make], None]) -> None:
    def new() -> Detector:
        detector: Detector = make(page / file, "detectors", Detector)
        detector.name = file.stem
        return detector

    check(new)


class Jump(Detector):
    """Says when a loss is ten times the mean of the last 50: the smallest detector that has a state."""

    name = "jump"

    def __init__(self) -> None:
        self.window: list[float] = []

    def observe(self, record: Record) -> list[Event]:
        found = []
        for place, loss in enumerate(record.series.get("train_loss", ()), start=1):
            step = record.step - EVERY + place
            if len(self.window) == 50 and loss > 10 * sum(self.window) / 50:
                found.append(Event(self.name, "jump", "WARNING", step, f"the loss jumped to {loss:.4g}"))  # type: ignore[arg-type]
            if self.counts(loss):
                self.window = [*self.window, loss][-50:]
        return found

    def counts(self, loss: float) -> bool:
        return math.isfinite(loss)

    def state_dict(self) -> dict[str, Any]:
        return {"window": list(self.window)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window = state["window"]


class Forgetful(Jump):
    """Keeps nothing for a resume."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Blinded(Jump):
    """Takes every number into its mean."""

    def counts(self, loss: float) -> bool:
        return True


class Repeating(Jump):
    """Says one event twice."""

    def observe(self, record: Record) -> list[Event]:
        return 2 * super().observe(record)


class Hoarding(Jump):
    """Keeps everything."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def observe(self, record: Record) -> list[Event]:
        self.seen += record.series.get("train_loss", ())
        return super().observe(record)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seen": list(self.seen)}


class Deaf(Jump):
    """Looks for what is not there."""

    def observe(self, record: Record) -> list[Event]:
        return []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_detector_with_a_window_can_keep_the_contract(check: Callable[[Make], None]) -> None:
    check(Jump)


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Forgetful, check_resume),
        (Blinded, check_not_blinded),
        (Repeating, check_events),
        (Deaf, check_events),
        (Hoarding, check_bounded),
    ],
)
def test_the_contract_finds_what_is_wrong(kind: type[Detector], check: Callable[[Make], None]) -> None:
    with pytest.raises(AssertionError):
        check(kind)
