"""Which snapshots may go: by age, kind and size, never the newest best model, and links counted once."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from expkit.checkpoints import checkpoint_error
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.snapshots import Retention, freed_by, list_snapshots, remove, size_on_disk, verify
from expkit.snapshots.cleaning import parse_age, parse_size
from tests.expkit.snapshots.making import MOMENT, Event, best, make_run, take

DAY = 86400.0
NOW = datetime.fromtimestamp(MOMENT) + timedelta(days=10)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with snapshots of day 0 (a spike), 2 and 4 (bests), 6 (a divergence), 8 (a spike), each of a checkpoint."""
    run = make_run(tmp_path / "mine", 1, 2, 3, 4, 5)
    events = [Event(), best(0.9), best(0.8), Event("divergence", "divergence_detected"), Event()]
    for number, event in enumerate(events):
        checkpoint = run.checkpoints / f"checkpoint_step_{number + 1}.pt"
        take(run, event, step=number + 1, time=MOMENT + 2 * DAY * number, checkpoint=checkpoint)
    return run


def gone(run: RunDir, retention: Retention) -> list[int | None]:
    return [each.step for each in retention.removable(list_snapshots(run), NOW)]


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        (Retention(), []),
        (Retention(older_than=timedelta(days=4)), [1, 4]),
        (Retention(older_than=timedelta(days=4, seconds=1)), [1]),
        (Retention(kinds=("loss_spike",)), [1, 5]),
        (Retention(older_than=timedelta(days=5), kinds=("loss_spike",)), [1]),
        (Retention(older_than=timedelta(0), kinds=("best_model",)), [2]),
        (Retention(older_than=timedelta(0), kinds=("best_model", "divergence")), [2, 4]),
        (Retention(kinds=("loss",)), []),
        (Retention(max_size=0), [1, 4, 5]),
        (Retention(max_size=0, kinds=("best_model",)), [2]),
        (Retention(max_size=1 << 40), []),
        (Retention(older_than=timedelta(days=9), max_size=1 << 40), [1]),
    ],
)
def test_what_may_go(run: RunDir, retention: Retention, expected: list[int]) -> None:
    assert gone(run, retention) == expected


def test_the_newest_that_fit_stay(run: RunDir) -> None:
    snapshots = list_snapshots(run)
    total = size_on_disk(snapshots)
    assert gone(run, Retention(max_size=total)) == []
    assert gone(run, Retention(max_size=total - 1)) == [1]
    assert gone(run, Retention(max_size=total - size_on_disk(snapshots[:1]))) == [1]
    assert gone(run, Retention(max_size=total - size_on_disk(snapshots[:1]) - 1)) == [1, 4]


def test_a_file_with_several_names_counts_once(run: RunDir) -> None:
    shared = run.checkpoints / "checkpoint_step_5.pt"
    for step in (6, 7):
        take(run, Event("plateau", "plateau"), step=step, time=MOMENT + 9 * DAY + step, checkpoint=shared)
    snapshots = list_snapshots(run)
    size = shared.stat().st_size
    assert size_on_disk(snapshots[-3:]) < sum(each.size for each in snapshots[-3:]) - 1.9 * size
    small = [sum(path.stat().st_size for path in each.path.glob("*.json")) for each in snapshots]
    assert freed_by(snapshots[-3:]) == sum(small[-3:])  # checkpoints/ has it still
    shared.unlink()
    assert freed_by(snapshots[-2:]) == sum(small[-2:])  # the snapshot of step 5 has it
    assert freed_by(snapshots[-3:]) == sum(small[-3:]) + size


def test_the_newest_intact_best_stays_where_the_newest_is_damaged(run: RunDir) -> None:
    newest = next(each for each in list_snapshots(run) if each.step == 3)
    assert newest.checkpoint is not None
    content = newest.checkpoint.read_bytes()
    newest.checkpoint.unlink()
    newest.checkpoint.write_bytes(content[:-1])
    assert gone(run, Retention(kinds=("best_model",))) == []


def test_removing_one_leaves_what_it_shared(run: RunDir, tmp_path: Path) -> None:
    spike = list_snapshots(run)[0]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (spike.path / "model" / "link").symlink_to(outside)
    remove(spike)
    assert not spike.path.exists()
    assert len(list(run.snapshots.iterdir())) == 4
    assert (outside / "precious").read_text() == "mine"
    assert checkpoint_error(run.checkpoints / "checkpoint_step_1.pt") is None
    assert {verify(each) for each in list_snapshots(run)} == {None}


def test_a_reader_beside_a_removal_sees_no_half(run: RunDir) -> None:
    snapshots = list_snapshots(run)
    remove(snapshots[0])
    assert snapshots[0].size == 0
    assert verify(snapshots[0]) == "metadata.json is missing"
    with pytest.raises(FileNotFoundError):
        remove(snapshots[0])


def test_a_damaged_one_goes_by_its_name(run: RunDir) -> None:
    (list_snapshots(run)[0].path / "metadata.json").write_text("{")
    assert gone(run, Retention(kinds=("loss_spike",))) == [None, 5]


def test_units() -> None:
    assert parse_age("30d") == timedelta(days=30)
    assert parse_age("1.5h") == timedelta(minutes=90)
    assert parse_age("2 W") == timedelta(days=14)
    assert parse_age("9" * 40 + "w") == timedelta.max
    assert parse_size("10GB") == 10 * 1024**3
    assert parse_size("512B") == 512 and parse_size("0") == 0
    for parse, text in ((parse_age, "30"), (parse_age, "-3d"), (parse_size, "10"), (parse_size, "10 parsecs")):
        with pytest.raises(UserError, match="write a number"):
            parse(text)


def test_an_old_time_zone_or_clock_is_no_matter(run: RunDir) -> None:
    os.utime(list_snapshots(run)[0].path, (1, 1))  # its name says when it was made
    assert gone(run, Retention(older_than=timedelta(days=11))) == []
