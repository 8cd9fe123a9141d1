"""Looking closer than the bins of a curve: the part of the journal is read again, and no more than that."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.monitor import TrainingMonitor, View
from expkit.reading import detail
from expkit.reading.feed import RunFeed
from expkit.record import Record

STEPS = 20_000


def write(run: Path, steps: range, journal_name: str = "metrics.jsonl") -> None:
    (run / "logs").mkdir(parents=True, exist_ok=True)
    with Journal(run / "logs" / journal_name) as journal:
        for step in steps:
            value = math.nan if step == 10_001 else math.sin(step)
            journal.write(Record(step, 1 + step // 1000, 1e9 + step, {"loss": value}), flush=False)


@pytest.fixture
def feed(tmp_path: Path) -> RunFeed:
    write(tmp_path, range(1, STEPS + 1))
    feed = RunFeed(RunDir(tmp_path), index=False)
    feed.refresh()
    return feed


@pytest.mark.parametrize(("first", "last"), [(10_000, 10_050), (1, 40), (19_990, 1e9), (-5, 3)])
def test_a_part_shows_every_value(feed: RunFeed, first: float, last: float) -> None:
    found = feed.detail("loss", first, last)
    assert found is not None
    values = dict(zip(*found.thinned(5000, (first, last)).line(), strict=True))
    for step in range(max(1, int(first)), int(min(last, STEPS)) + 1):
        if step != 10_001:
            assert values[step] == math.sin(step)
    assert len(values) < 1000  # and little else


def test_what_is_not_finite_is_marked_there(feed: RunFeed) -> None:
    found = feed.detail("loss", 9_990, 10_010)
    assert found is not None and found.nonfinite_steps == [10_001]


def test_where_bins_tell_enough_nothing_is_read(feed: RunFeed) -> None:
    assert feed.curves["loss"].resolution((1, STEPS))[0] > 300
    assert feed.detail("loss", 1, STEPS) is None


def test_too_much_is_not_read(feed: RunFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detail, "_MOST_BYTES", 1000)
    assert feed.detail("loss", 10_000, 10_500) is None


def test_a_part_that_grows_is_read_again_and_one_that_does_not_is_not(
    feed: RunFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detail, "_PATIENCE", 0)
    before, old = feed.detail("loss", 19_000, 30_000), feed.detail("loss", 500, 600)
    write(feed.run.root, range(STEPS + 1, STEPS + 51))
    feed.refresh()
    after = feed.detail("loss", 19_000, 30_000)
    assert before is not None and after is not None
    assert (before.ends() or ())[1:] == (STEPS,) and (after.ends() or ())[1:] == (STEPS + 50,)
    assert feed.detail("loss", 500, 600) is old


def test_a_journal_that_begins_anew_leaves_nothing_behind(feed: RunFeed) -> None:
    assert feed.detail("loss", 19_900, 20_000) is not None
    feed.run.metrics.unlink()
    write(feed.run.root, range(1, 10_001))
    feed.refresh()
    found = feed.detail("loss", 9_000, 9_050)
    assert feed.generation == 1 and found is not None
    assert max(found.line()[0]) < 10_000


def test_rotated_parts_are_read(tmp_path: Path) -> None:
    write(tmp_path, range(1, 12_001), "metrics.0001.jsonl")
    write(tmp_path, range(12_001, STEPS + 1))
    feed = RunFeed(RunDir(tmp_path), index=False)
    feed.refresh()
    found = feed.detail("loss", 11_990, 12_010)
    assert found is not None
    assert set(range(11_990, 12_011)) <= set(found.line()[0])


def test_a_view_of_a_part_is_drawn_from_it_over_time_and_epochs_too(tmp_path: Path) -> None:
    write(tmp_path, range(1, STEPS + 1))
    with TrainingMonitor(tmp_path, index=False) as monitor:
        monitor.refresh()
        for along, between in (("step", (5000, 5036)), ("time", (4999 / 3600, 5035 / 3600))):
            view = View(metrics=["loss"], along=along, bins=400, between=between)  # type: ignore[arg-type]
            curve = monitor.screen(view).panels[0].lines[0].curve
            values = [value for place, value in zip(*curve.line(), strict=True) if between[0] <= place <= between[1]]
            assert values == pytest.approx([math.sin(step) for step in range(5000, 5037)], abs=1e-9), along
