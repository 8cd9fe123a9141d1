"""Reading a journal: what of its lines and parts is read, and what is passed over."""

from __future__ import annotations

import json
import logging
import tracemalloc
from pathlib import Path

import pytest

from expkit import tail
from expkit.journal import Journal, JournalReader, read_journal
from expkit.record import make_record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def lines(*steps: int) -> bytes:
    return b"".join(json.dumps({"step": step, "loss": 1.0}).encode() + b"\n" for step in steps)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def steps(entries) -> list[int]:
    return [entry["step"] for entry in entries]


def test_broken_and_unknown_lines_are_skipped_and_counted(path: Path) -> None:
    append(path, lines(1) + b"rubbish\n" + b'{"loss": 1}\n' + b'{"step": 2, "loss\n' + b"\n \n" + lines(3))
    with JournalReader(path) as follower:
        assert steps(follower) == [1, 3]
        assert follower.broken == 3


def test_lines_with_unknown_fields_are_read(path: Path) -> None:
    append(path, b'{"step": 1, "from": {"a later": ["version"]}}\n')
    assert list(read_journal(path)) == [{"step": 1, "from": {"a later": ["version"]}}]


def test_reading_whole_says_once_how_many_lines_were_broken(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    append(path, lines(1) + b"x\ny\n" + lines(2) + b'{"step": 3, "lo')
    assert steps(read_journal(path)) == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [f"{path}: skipped 3 broken line(s)"]


def test_reading_whole_takes_a_last_line_that_only_lacks_its_newline(path: Path) -> None:
    append(path, lines(1, 2).rstrip())
    assert steps(read_journal(path)) == [1, 2]


def test_rotated_parts_are_read_first_and_in_order(path: Path) -> None:
    with Journal(path) as journal:
        for step in range(1, 13):
            journal.write(make_record(step, {}))
            journal.rotate()
        journal.write(make_record(13, {}))
    assert steps(read_journal(path)) == list(range(1, 14))


def test_the_ten_thousandth_part_is_a_part_like_others(path: Path) -> None:
    path.with_name("metrics.9999.jsonl").write_bytes(lines(1))
    with Journal(path) as journal:
        for step in (2, 3):
            journal.write(make_record(step, {}))
            journal.rotate()
        journal.write(make_record(4, {}))
    assert steps(read_journal(path)) == [1, 2, 3, 4]


def test_a_line_without_end_does_not_fill_the_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "_CHUNK", 1 << 12)
    monkeypatch.setattr(tail, "_LONGEST_LINE", 1 << 14)
    with JournalReader(path) as follower:
        append(path, lines(1))
        tracemalloc.start()
        try:
            for _ in range(256):
                append(path, b"x" * (1 << 14))
                list(follower)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1 << 18
        append(path, b"x\n" + lines(2))
        assert steps(follower) == [2]
        assert follower.broken == 1


def test_a_long_line_within_the_limit_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "_CHUNK", 1 << 10)
    append(path, json.dumps({"step": 1, "details": {"text": "x" * 100_000}}).encode() + b"\n")
    assert len(next(read_journal(path))["details"]["text"]) == 100_000


def test_only_files_of_this_journal_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").mkdir()
    append(tmp_path / "a" / "metrics.jsonl", lines(1))
    append(tmp_path / "metrics.jsonl", lines(2))
    append(tmp_path / "metrics.cut-1.jsonl", lines(3))
    append(tmp_path / "events.0001.jsonl", lines(4))
    append(tmp_path / "metrics.old.jsonl", lines(5))
    with caplog.at_level(logging.WARNING):
        assert steps(read_journal(tmp_path / "metrics.jsonl")) == [2]
    assert not caplog.records
