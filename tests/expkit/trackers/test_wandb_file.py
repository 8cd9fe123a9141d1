"""W&B after a full disk: its service never writes again, which is noticed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expkit.trackers import wandb_file
from expkit.trackers.wandb import WandbTracker
from expkit.trackers.wandb_file import GrowingFile
from tests.soak.place import fill


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB, which W&B's service may still have open when it goes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_file_that_no_longer_grows_is_noticed_at_the_second_look(tmp_path: Path) -> None:
    now, path = [0.0], tmp_path / "file"
    file = GrowingFile(path, clock=lambda: now[0])
    file.before_adding()  # it need not be there yet
    path.write_bytes(b"1")
    for now[0] in (31.0, 40.0):
        file.before_adding()
    path.write_bytes(b"12")
    now[0] = 62.0
    file.before_adding()
    now[0] = 93.0
    with pytest.raises(OSError, match="no longer writes"):
        file.before_adding()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file.before_adding()


def test_after_a_full_disk_it_begins_another_file_and_lacks_nothing(
    small_disk: Path,
    run: Any,
    records: Any,
    wandb_files: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wandb_file, "_PATIENCE", 0.5)
    about = run.__class__(id=run.id, dir=small_disk / "run", project="test")
    about.dir.mkdir()
    many = records(range(1, 401))  # more than the one page of memory that the file has begun
    tracker = WandbTracker(system_metrics=False)
    assert tracker.start(about) == -1
    tracker.log(many[0])
    with fill(small_disk):
        for record in many[1:]:
            tracker.log(record)
    with pytest.raises(OSError, match="has not written the end"):
        tracker.finish({})
    held = tracker.start(about)
    assert held is not None and held < 400
    for record in many[held:]:
        tracker.log(record)
    tracker.finish({})
    assert [step for file in wandb_files(about.dir) for step in file.rows] == list(range(1, 401))
