"""What the tests of faults share."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import Whole, recorded, train


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run that nothing has troubled. It also imports in this process what its children will need."""
    folder = tmp_path_factory.mktemp("whole")
    operations = recorded(folder / "run")
    began = time.monotonic()
    assert train(folder / "again", said=folder / "said") == 0
    return Whole(folder / "run", operations, time.monotonic() - began)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, text=True)
    if mounting.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {mounting.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)
