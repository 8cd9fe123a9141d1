"""The sidecar index of a journal: what was read once is there at once, and never instead of what the journal says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from expkit.experiment import RunDir
from expkit.journal import cut_journal
from expkit.reading.feed import RunFeed
from expkit.reading.index import load_index
from tests.expkit.reading.test_feed import points, write


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def indexed(run: Path) -> Path:
    write(run, range(6000))
    write(run, range(6000, 6010), train_loss=math.nan)
    feed = RunFeed(RunDir(run))
    feed.refresh()
    feed.close()
    assert load_index(run / "logs" / "metrics.jsonl") is not None
    return run


def _reads(run: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFeed, int]:
    read = 0

    def counted(entries: Any, curve: Any) -> dict[str, float]:
        nonlocal read
        read += len(entries)
        from expkit.plots.columns import add_entries

        return add_entries(entries, curve)

    monkeypatch.setattr("expkit.reading.feed.add_entries", counted)
    feed = RunFeed(RunDir(run))
    feed.refresh()
    return feed, read


def test_only_what_came_since_is_read(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(indexed, range(6010, 6015))
    feed, read = _reads(indexed, monkeypatch)
    fresh = RunFeed(RunDir(indexed), index=False)
    fresh.refresh()
    assert read == 5
    assert {name: curve.line() for name, curve in feed.curves.items()} == {
        name: curve.line() for name, curve in fresh.curves.items()
    }
    assert feed.curves["train_loss"].average() == fresh.curves["train_loss"].average()
    assert feed.curves["train_loss"].nonfinite_steps == list(range(6000, 6010))
    assert (feed.records, feed.last) == (fresh.records, fresh.last)
    assert list(feed.recent) == list(fresh.recent), "by these a stalled run is told from one whose records are rare"


def test_a_journal_that_was_cut_back_is_read_anew(indexed: Path) -> None:
    cut_journal(indexed / "logs" / "metrics.jsonl", 2999)
    write(indexed, range(3000, 9000), val_loss=1.0)
    feed = RunFeed(RunDir(indexed))
    feed.refresh()
    assert feed.records == 9000
    assert points(feed, "val_loss")[0][0] == 3000


@pytest.mark.parametrize("damage", ["torn", "rubbish", "empty"])
def test_a_damaged_index_is_made_anew(indexed: Path, damage: str) -> None:
    path = indexed / "logs" / "metrics.index.npz"
    data = path.read_bytes()
    spoiled = {"torn": data[: len(data) // 2]}
    path.write_bytes(spoiled.get(damage, b"no archive" if damage == "rubbish" else b""))
    feed = RunFeed(RunDir(indexed))
    feed.refresh()
    assert feed.records == 6010
    feed.close()
    assert load_index(indexed / "logs" / "metrics.jsonl") is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 1, "records": 5},
        {"place": None}, {"place": {"offset": "x", "before": 5}}, {"last": 5}, {"recent": [[1]]}, {"records": None},
        {"curves": [1]}, {"width": 0}, {"bins": 2}, {"steps": [1.0]},
    ],
)  # fmt: skip
def test_one_that_does_not_fit_together_is_made_anew(indexed: Path, wrong: dict[str, Any]) -> None:
    path = indexed / "logs" / "metrics.index.npz"
    with np.load(path) as file:
        arrays = dict(file)
    plain = orjson.loads(arrays.pop("plain").tobytes())
    curve = plain["curves"]["train_loss"]
    (curve if wrong.keys() <= curve.keys() else plain).update(wrong)
    np.savez(path, plain=np.frombuffer(orjson.dumps(plain), np.uint8), **arrays)
    write(indexed, range(6010, 7000))
    feed, fresh = RunFeed(RunDir(indexed)), RunFeed(RunDir(indexed), index=False)
    feed.refresh()
    fresh.refresh()
    assert feed.records == 7000 and points(feed) == points(fresh)


def test_what_it_holds_is_never_unpickled(indexed: Path) -> None:
    path = indexed / "logs" / "metrics.index.npz"
    np.savez(path, plain=np.array([{"version": 1}], dtype=object))
    assert load_index(indexed / "logs" / "metrics.jsonl") is None


def test_without_a_place_beside_the_journal_it_is_in_the_users_cache(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(run, range(5000))
    (run / "logs" / "metrics.index.npz").mkdir()  # nothing can be put in its place
    feed = RunFeed(RunDir(run))
    feed.refresh()
    feed.close()
    assert len(list((tmp_path / "cache" / "expkit" / "monitor").iterdir())) == 1
    assert RunFeed(RunDir(run)).records == 5000


def test_a_user_without_a_home_reads_without_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with a user of its own, in a run directory of somebody else."""

    def nowhere(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nowhere)
    write(run, range(5000))
    (run / "logs" / "metrics.index.npz").mkdir()  # nothing can be put in its place
    feed = RunFeed(RunDir(run))
    feed.refresh()
    feed.close()
    assert feed.records == 5000


def test_a_short_journal_needs_no_index(run: Path) -> None:
    feed = RunFeed(RunDir(run))
    write(run, range(50))
    feed.refresh()
    feed.close()
    assert [path.name for path in (run / "logs").iterdir()] == ["metrics.jsonl"]
