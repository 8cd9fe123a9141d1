"""A manager of checkpoints, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from expkit import CheckpointManager


@pytest.fixture
def manager(tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path / "run", save_interval=10, keep_last_n=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run/checkpoints"
