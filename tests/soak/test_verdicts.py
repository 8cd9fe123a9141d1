"""The verdicts of a soak fail where something is wrong: a weight, a record, an event, a copy, a file, a descriptor."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from expkit.journal import Journal
from expkit.record import Record
from tests.soak import copies, verdicts
from tests.soak.copies import lacking
from tests.soak.place import Place
from tests.soak.sampling import Sample
from tests.soak.training import Attempt
from tests.soak.verdicts import Verdict

STEPS = 4


def state(**other: Any) -> dict[str, Any]:
    return {
        "model_state_dict": {"w": torch.tensor([1.0, 2.0])},
        "generators": [torch.arange(4)],
        "config": {"run": {"id": "x"}},
        "time": 1.0,
    } | other


def run_dir(
    root: Path, losses: Sequence[float] = (3.0, 2.0, 1.5, 1.0), steps: Sequence[int] = (1, 2, 3, 4), **other: Any
) -> Path:
    """Make what a run of four steps leaves, as far as verdicts look at it."""
    (root / "checkpoints").mkdir(parents=True)
    (root / "logs").mkdir()
    torch.save(state(**other), root / "checkpoints" / f"checkpoint_step_{STEPS}.pt")
    with Journal(root / "logs" / "metrics.jsonl") as journal:
        for step, loss in zip(steps, losses, strict=True):
            journal.write(Record(step, 1, 0.0, {"train_loss": loss}, series={"train_loss": [loss]}))
    event = {"step": 2, "detector": "d", "kind": "spike", "severity": "INFO", "message": "m", "values": {}}
    for name in ("events.jsonl", "watch_events.jsonl"):
        (root / "logs" / name).write_text(json.dumps(event) + "\n")
    return root


@pytest.mark.parametrize(
    ("other", "holds"),
    [
        ({}, True),
        ({"time": 2.0, "config": {}}, True),
        ({"model_state_dict": {"w": torch.tensor([1.0, 2.0000002])}}, False),
        ({"model_state_dict": {"w": torch.tensor([1.0, 2.0]).double()}}, False),
        ({"generators": [torch.arange(1, 5)]}, False),
        ({"more": 1}, False),
    ],
)
def test_another_weight_or_generator_is_seen(tmp_path: Path, other: dict[str, Any], holds: bool) -> None:
    one, reference = run_dir(tmp_path / "one", **other), run_dir(tmp_path / "reference")
    assert verdicts._same_state(one, reference, STEPS).holds == holds
    assert not verdicts._same_state(one, reference, STEPS + 1).holds


@pytest.mark.parametrize(
    ("steps", "losses"),
    [
        ((1, 2, 4), (3.0, 2.0, 1.0)),
        ((1, 2, 2, 3, 4), (3.0, 2.0, 2.0, 1.5, 1.0)),
        ((1, 2, 3, 4), (3.0, 2.0, 1.5000001, 1.0)),
        ((1, 2, 3), (3.0, 2.0, 1.5)),
    ],
    ids=["missing", "twice", "another", "end"],
)
def test_another_record_is_seen(tmp_path: Path, steps: Sequence[int], losses: Sequence[float]) -> None:
    one, reference = run_dir(tmp_path / "one", losses, steps), run_dir(tmp_path / "reference")
    assert verdicts._same_journal(reference, reference, STEPS).holds
    assert not verdicts._same_journal(one, reference, STEPS).holds


def test_an_event_that_is_missing_or_came_twice_is_seen(tmp_path: Path) -> None:
    one, reference = run_dir(tmp_path / "one"), run_dir(tmp_path / "reference")
    assert verdicts._same_events(one, reference, [0]).holds
    assert not verdicts._same_events(one, reference, [0, 1]).holds
    for name in ("events.jsonl", "watch_events.jsonl"):
        file = one / "logs" / name
        text = file.read_text()
        for wrong in ("", text + text):
            file.write_text(wrong)
            assert not verdicts._same_events(one, reference, [0]).holds
        file.write_text(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({(2, "train_loss"): []}, ["missing: 1 steps from 2 to 2"]),
        ({(2, "train_loss"): [2.0, 2.0]}, ["twice: 1 steps from 2 to 2"]),
        ({(2, "train_loss"): [2.5]}, ["another value: 1 steps from 2 to 2"]),
        ({(9, "train_loss"): [2.0]}, ["not in the journal: 1 steps from 9 to 9"]),
    ],
)
def test_another_copy_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[tuple[int, str], list[float]], said: list[str]
) -> None:
    run = run_dir(tmp_path / "run")
    held = {(step, "train_loss"): [loss] for step, loss in zip((1, 2, 3, 4), (3.0, 2.0, 1.5, 1.0), strict=True)}
    monkeypatch.setitem(copies.COPIES, "trackio", lambda _: held | change)
    assert lacking(cast("Place", SimpleNamespace(run=run)), "trackio") == (4, said)


def attempt(folder: Path, minutes: float) -> Attempt:
    process = cast("subprocess.Popen[bytes]", None)
    return Attempt(0, process, folder / "said", folder, started=0.0, began=10.0, ended=10 + 60 * minutes, code=0)


def flat(folder: Path, minutes: float, megabytes: float, descriptors: float, until: float = 1.0) -> list[Verdict]:
    """Judge a training that grows by so much an hour, and was looked at in this part of its time."""
    dice = random.Random(0)
    times = [10 + 2.0 * number for number in range(int(30 * minutes * until))]
    samples = [
        Sample(at, 300 + megabytes * at / 3600 + dice.gauss(0, 1), int(40 + descriptors * at / 3600), 9) for at in times
    ]
    return list(verdicts._flat([attempt(folder, minutes)], {(0, "training", 1): samples}))


def test_memory_and_descriptors_that_grow_are_seen(tmp_path: Path) -> None:
    assert [each.holds for each in flat(tmp_path, 25, 0, 0)] == [True, True]
    assert [each.holds for each in flat(tmp_path, 25, 60, 0)] == [False, True]
    assert [each.holds for each in flat(tmp_path, 25, 0, 30)] == [True, False]


def test_a_training_at_which_nobody_has_looked_to_its_end_is_not_called_flat(tmp_path: Path) -> None:
    assert [each.holds for each in flat(tmp_path, 25, 0, 0, until=0.3)] == [False]
    assert [each.holds for each in flat(tmp_path, 5, 0, 0, until=0.3)] == []


def test_a_file_that_is_left_is_seen(tmp_path: Path) -> None:
    run, temporary = tmp_path / "disk" / "soak", tmp_path / "t"
    run.mkdir(parents=True)
    temporary.mkdir()
    place = cast("Place", SimpleNamespace(run=run, disk=run.parent, folder=tmp_path))
    attempts = [attempt(temporary, 1)]
    assert verdicts._no_files(place, attempts, []).holds
    for left in (run / "x.tmp", temporary / "x", run / "checkpoint_step_1.pt.corrupt"):
        left.touch()
        assert not verdicts._no_files(place, attempts, []).holds
        left.unlink()
