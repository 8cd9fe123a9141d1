"""A checkpoint's bytes are held against their checksums, by several threads where it is large."""

from __future__ import annotations

import os
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from expkit import checkpoint_file
from expkit.checkpoint_file import archive_error


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoint_file, "_WORTH_THREADS", 1)
    monkeypatch.setattr(checkpoint_file, "_CHUNK", 1000)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    torch.save({f"part{number}": torch.full((3000 + number,), float(number)) for number in range(9)}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def test_a_flipped_bit_in_any_part_is_found_and_named(path: Path) -> None:
    assert archive_error(path) is None
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if "/data/" in member.filename]
    assert len(members) == 9
    for member in members:
        damaged = bytearray(whole)
        place = whole.index(b"PK\x07\x08", member.header_offset) - 4
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert archive_error(path) == (
            f"the checksum of {member.filename} does not match: it was changed after it was written"
        )


def test_a_disk_that_fails_says_nothing_about_the_file_and_leaves_no_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if offset > 30_000:
            raise OSError(5, "Input/output error")
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(OSError, match="Input/output error"):
        archive_error(path)
    assert not [thread for thread in threading.enumerate() if thread.name == "expkit-checksums"]


def test_it_is_checked_where_no_thread_can_be_started(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert archive_error(path) is None
    path.write_bytes(path.read_bytes()[:-5000])
    assert "damaged or incomplete" in str(archive_error(path))
