"""Writing a journal to a disk that is full or fails, into a folder that is moved or deleted: its lines wait."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from expkit.journal import Journal, JournalReader, cut_journal, writer
from expkit.record import make_record
from tests.expkit.journal.test_writer import path, steps

__all__ = ["path"]  # a fixture


class Disk:
    """A disk on which regular files can only grow by `room` bytes; a write that does not fit is cut short."""

    def __init__(self) -> None:
        self.room = 1 << 60
        self._write = os.write

    def write(self, descriptor: int, data: bytes) -> int:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return self._write(descriptor, data)
        if self.room == 0 and data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(descriptor, bytes(data[: self.room]))
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "write", disk.write)
    yield disk


@pytest.mark.parametrize("room", [0, 1, 10, 60, 100])
def test_a_full_disk_loses_nothing(path: Path, disk: Disk, room: int, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(path)
    journal.write(make_record(1, {"loss": 0.5}))
    disk.room = room
    for step in range(2, 50):
        journal.write(make_record(step, {"loss": 0.5}))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} cannot be written (No space left on device): its lines wait in memory"
    ]
    disk.room = 1 << 60
    journal.write(make_record(50, {"loss": 0.5}))
    assert steps(path) == list(range(1, 51))
    assert caplog.records[-1].getMessage() == f"{path} can be written again: nothing was lost"
    assert len(caplog.records) == 2


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:7])))
    journal = Journal(path)
    for step in range(1, 20):
        journal.write(make_record(step, {"loss": 0.5}))
    assert steps(path) == list(range(1, 20))


@pytest.mark.parametrize("room", [0, 10, 75])
def test_rotating_on_a_full_disk_tears_no_line(path: Path, disk: Disk, room: int) -> None:
    journal = Journal(path)
    journal.write(make_record(1, {"loss": 0.5}))
    disk.room = room
    journal.write(make_record(2, {"loss": 0.5}))
    journal.rotate()
    disk.room = 1 << 60
    journal.write(make_record(3, {"loss": 0.5}))
    assert steps(path) == [1, 2, 3]


def test_sync_says_when_lines_still_wait(path: Path, disk: Disk) -> None:
    journal = Journal(path)
    disk.room = 0
    journal.write(make_record(1, {}))
    with pytest.raises(OSError) as caught:
        journal.sync()
    assert caught.value.errno == errno.ENOSPC
    disk.room = 1 << 60
    journal.sync()
    assert steps(path) == [1]


def test_lines_that_could_never_be_written_are_counted_when_closing(
    path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(path)
    disk.room = 30
    journal.write(make_record(1, {"loss": 0.5}))
    journal.write(make_record(2, {"loss": 0.5}))
    journal.close()
    assert "2 line(s) are lost" in caplog.text


@pytest.mark.parametrize("room", [0, 30])
def test_more_than_memory_may_hold_costs_the_oldest_lines_which_are_counted(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, room: int
) -> None:
    monkeypatch.setattr(writer, "_MAX_PENDING", 1000)
    journal = Journal(path)
    disk.room = room
    for step in range(100):
        journal.write(make_record(step, {"loss": 0.5}))
        assert len(journal._pending) <= 1000
    trouble = journal.trouble()
    assert trouble["failing"]
    assert trouble["waiting"] + trouble["lost"] == 100
    disk.room = 1 << 60
    journal.write(make_record(100, {"loss": 0.5}))
    with JournalReader(path) as reader:
        assert [entry["step"] for entry in reader] == list(range(trouble["lost"], 101)), "the newest are kept"
        assert reader.broken == (room > 0), "what the disk had taken of a line that is lost"
    said = [record.getMessage() for record in caplog.records]
    assert said[1] == f"{path} can be written again: {trouble['lost']} line(s), the oldest, are lost"
    journal.close()
    assert f"{trouble['lost']} line(s) are lost" in caplog.records[-1].getMessage()
    assert len(caplog.records) == 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EINTR])
def test_whatever_the_disk_says_lines_wait_until_it_takes_them(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    journal = Journal(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
        for step in range(5):
            journal.write(make_record(step, {}))
        assert journal.trouble() == {
            **{"failures": 5, "last_error": os.strerror(code), "failing": True},
            **{"waiting": 5, "lost": 0},
        }
    journal.write(make_record(5, {}))
    assert steps(path) == list(range(6))
    assert not journal.trouble()["failing"]


def test_a_descriptor_that_a_server_has_forgotten_is_opened_anew(path: Path) -> None:
    journal = Journal(path)
    os.close(journal._descriptor)
    for step in range(3):
        journal.write(make_record(step, {}))
    assert steps(path) == [0, 1, 2]


def test_a_file_that_cannot_be_opened_yet_is_written_later_if_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "run" / "logs" / "events.jsonl"
    journal = Journal(path, must_open=False)
    journal.write(make_record(1, {}))
    assert journal.trouble()["waiting"] == 1
    path.parent.parent.mkdir()
    journal.write(make_record(2, {}))
    assert steps(path) == [1, 2]


def test_after_its_folder_was_deleted_lines_go_into_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "run" / "logs" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    journal = Journal(path)
    journal.write(make_record(1, {}))
    shutil.rmtree(path.parent)
    journal.write(make_record(2, {}))
    assert steps(path) == [2]


def test_without_a_run_directory_lines_wait_for_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that is not mounted for a while, say: nothing may be put in its place."""
    path = tmp_path / "run" / "logs" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    journal = Journal(path)
    shutil.rmtree(tmp_path / "run")
    for step in (1, 2):
        journal.write(make_record(step, {}))
    assert not (tmp_path / "run").exists()
    path.parent.parent.mkdir()
    journal.write(make_record(3, {}))
    assert steps(path) == [1, 2, 3]
    assert caplog.records[-1].getMessage() == f"{path} can be written again: nothing was lost"


def test_a_file_moved_away_is_followed_by_a_new_one(path: Path, tmp_path: Path) -> None:
    journal = Journal(path)
    journal.write(make_record(1, {}))
    path.rename(tmp_path / "archive.jsonl")
    journal.write(make_record(2, {}))
    assert (steps(tmp_path / "archive.jsonl"), steps(path)) == ([1], [2])


def test_a_file_replaced_by_another_is_continued(path: Path) -> None:
    """Somebody cuts a journal under its writer: new lines must not go into a file that has no name any more."""
    journal = Journal(path)
    for step in (1, 2, 3):
        journal.write(make_record(step, {}))
    cut_journal(path, 1)
    journal.write(make_record(2, {}))
    assert steps(path) == [1, 2]


def test_a_folder_moved_away_does_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    journal = Journal(tmp_path / "logs" / "metrics.jsonl")
    journal.write(make_record(1, {}))
    (tmp_path / "logs").rename(tmp_path / "moved")
    journal.write(make_record(2, {}))
    assert steps(tmp_path / "moved" / "metrics.jsonl") == [1, 2]


def test_rotating_after_the_file_was_moved_away_is_no_error(path: Path, tmp_path: Path) -> None:
    journal = Journal(path)
    journal.write(make_record(1, {}))
    path.rename(tmp_path / "archive.jsonl")
    journal.rotate()
    journal.write(make_record(2, {}))
    assert steps(path) == [2]


def test_a_journal_in_no_folder_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "nowhere" / "metrics.jsonl")
