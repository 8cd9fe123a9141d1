"""The benchmark of the journal, with expkit's own alone; and its arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import journal
from benchmarks.harness import Comparison
from benchmarks.tools import Written


def test_the_journal_gives_back_and_shows_what_was_logged(tmp_path: Path) -> None:
    tool = Written(tmp_path)
    assert tool.last() == 0
    tool.log(journal.record(1))
    assert tool.last() == 1
    tool.log(journal.record(2))
    tool.close()
    assert [step for step, _ in tool.curve("train_loss")] == [1, 2]
    assert tool.size() == (tool.folder / "metrics.jsonl").stat().st_size > 0


def test_it_measures_a_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", "as before")  # which measuring changes
    result = journal.measure({Written: 50}, rounds=2, follow=2, many=3000)
    assert len(result.following[Written.name]) == 2
    text = result.markdown()
    assert "| expkit journal, 50 records |" in text
    assert "| a journal of 3,000 records | seconds |" in text
    assert "| curves, with the index |" in text


def test_who_does_not_see_a_record_is_waited_for_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PATIENCE", 0.01)
    monkeypatch.setattr(Written, "last", lambda self: 0)
    (lag,) = journal.following(Written(tmp_path), 5)
    assert lag >= 10


def test_goals_are_met_only_by_the_first() -> None:
    table = Comparison("us", "ours", {"ours": [2.0], "a, 10 records": [3.0], "b, 10 records": [9.0]})
    other = Comparison("us", "ours", {"ours": [2.0], "a, 10 records": [1.5], "b, 10 records": [9.0]})
    result = journal.Result(table, table, other, {"ours": [1.0], "a": [2.0]}, {"ours": 150.0, "a": 100.0}, {}, 0)
    writing, reading, following, size = journal.goals(result)
    assert writing.met and writing.measured == "2.0 us a record; next: a, 3.0 us"
    assert not reading.met
    assert following.met
    assert not size.met and size.measured == "150 bytes a record; next: a, 100"
