"""Bytes that changed after they were written: found or harmless, never loaded silently wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from expkit.checkpoints import CheckpointManager
from expkit.config_tracker import ConfigTracker
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.journal import Journal, JournalReader, encode
from expkit.metrics_logger import MetricsLogger
from expkit.record import make_record
from expkit.rng import rng_state
from expkit.status import read_status
from tests.train.helpers import same

Damage = Callable[[random.Random, bytearray], None]

PAGE = 4096


def flip_a_bit(dice: random.Random, data: bytearray) -> None:
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def zero_a_page(dice: random.Random, data: bytearray) -> None:
    """A page that never reached the disk."""
    begin = dice.randrange(-(-len(data) // PAGE)) * PAGE
    data[begin : begin + PAGE] = bytes(len(data[begin : begin + PAGE]))


def truncate(dice: random.Random, data: bytearray) -> None:
    del data[dice.randrange(len(data)) :]


def many(times: dict[Damage, int], sizes: dict[str, int]) -> list:
    """(damage, how often) at each of `sizes`; the full numbers are for the long version."""
    return [
        pytest.param(
            damage, count // part, id=f"{damage.__name__}-{name}", marks=[pytest.mark.slow] if part == 1 else []
        )
        for damage, count in times.items()
        for name, part in sizes.items()
    ]


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict]]:
    """A run directory with two checkpoints such as a runner saves, and what is in the newer one."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.Linear(30, 10))
    optimizer = torch.optim.AdamW(model.parameters())
    manager = CheckpointManager(folder)
    for step in (1, 2):
        model(torch.randn(8, 20)).sum().backward()
        optimizer.step()
        extra = {"rng_state": rng_state(), "metrics": {"val_loss": 0.3}, "sampler_state": {"epoch": 1, "batch": step}}
        manager.save_checkpoint(step, model, optimizer, [0.5] * step, {"lr": 0.1}, **extra)
    whole = manager.load_checkpoint(2)
    assert whole is not None
    yield folder, whole


TIMES: dict[Damage, int] = {flip_a_bit: 2000, zero_a_page: 500, truncate: 500}


@pytest.mark.parametrize(("damage", "times"), many(TIMES, {"some": 20, "all": 1}))
def test_a_damaged_checkpoint_is_found_and_the_one_before_it_is_taken(two_checkpoints, damage, times, caplog):
    folder, whole = two_checkpoints
    newest = folder / "checkpoints" / "checkpoint_step_2.pt"
    intact, dice, found = newest.read_bytes(), random.Random(1), 0
    try:
        for _ in range(times):
            data = bytearray(intact)
            damage(dice, data)
            newest.write_bytes(data)
            caplog.clear()
            checkpoint = CheckpointManager(folder).load_latest_checkpoint()
            assert checkpoint is not None
            if checkpoint["step"] == 1:
                found += 1
                assert "is set aside as checkpoint_step_2.pt.corrupt" in caplog.text
                assert data != intact
            else:
                assert same(checkpoint, whole)
            for aside in newest.parent.glob("*.corrupt*"):
                aside.unlink()
    finally:
        newest.write_bytes(intact)
    assert found > 0.9 * times  # a few bits mean nothing: the date in the archive, padding between its parts


def journal_of(folder: Path) -> Path:
    files = RunDir(folder)
    files.logs.mkdir(parents=True)
    with Journal(files.metrics) as journal:
        for step in range(1, 101):
            journal.write_line(
                encode(make_record(step, {"train_loss": 1 / step, "val_loss": 2.0}, 1, {"at": [step]}, {}))
            )
    return files.metrics


@pytest.mark.parametrize(("damage", "times"), many(dict.fromkeys(TIMES, 400), {"some": 20, "all": 1}))
def test_a_damaged_journal_is_read_as_far_as_it_goes_and_its_bad_lines_are_counted(tmp_path, damage, times):
    path = journal_of(tmp_path)
    intact, dice = path.read_bytes(), random.Random(2)
    for _ in range(times):
        data = bytearray(intact)
        damage(dice, data)
        path.write_bytes(data)
        with JournalReader(path) as reader:
            entries = list(reader)
            torn = reader.torn()
            lost = 100 - len(entries) - (torn is not None)
            # One line can become two, or two one; what cannot be read is counted.
            assert reader.broken >= 1 or lost <= 1 or damage is truncate
        lines = [line for line in bytes(data).splitlines() if line in set(intact.splitlines())]
        assert len(entries) + (torn is not None) >= len(lines) - 1
        assert len(MetricsLogger(path.parent).load_metrics()) >= len(lines) - 1


@pytest.mark.parametrize(("damage", "times"), many(dict.fromkeys(TIMES, 400), {"some": 20, "all": 1}))
def test_damaged_json_files_are_read_or_refused_in_one_line(tmp_path, damage, times):
    tracker = ConfigTracker(tmp_path)
    tracker.save_config({"lr": 0.1, "name": "x" * 50})
    tracker.save_results({"val_loss": 0.3})
    files = RunDir(tmp_path)
    files.status.write_bytes(b'{"state": "running", "step": 3, "metrics": {"train_loss": 0.5}}\n')
    dice = random.Random(3)
    for path, load in (
        (files.config, tracker.load_config),
        (files.results, tracker.load_results),
        (files.status, lambda: read_status(files.status)),
    ):
        intact = path.read_bytes()
        for _ in range(times):
            data = bytearray(intact)
            damage(dice, data)
            path.write_bytes(data)
            try:
                assert isinstance(load(), dict)
            except UserError as error:
                assert str(path) in str(error)
                assert "\n" not in str(error)
        path.write_bytes(intact)
