"""What a run leaves on the disk, counted."""

from __future__ import annotations

from pathlib import Path

from benchmarks.footprint import Footprint, Usage, usage


def test_files_folders_and_bytes_are_counted(tmp_path: Path) -> None:
    for name, size in {"config.json": 10, "logs/metrics.jsonl": 300, "checkpoints/checkpoint_step_1.pt": 1000}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert usage(tmp_path) == Usage(files=3, folders=3, size=1310, checkpoints=1000, journal=300)
    table = Footprint({"a kind": usage(tmp_path)}, steps=100).markdown()
    assert "| a kind | 3 | 3 | 0.00 | 0.00 | 3 | 30,000 | 0.0 |" in table
