"""Writes W&B transaction logs: for rows of GPUs that are not there, and for files larger than a test could record."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024


def write_log(path: Path, records: Iterable[Record]) -> Path:
    """Write a log as W&B does, record by record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(framed(record.SerializeToString() for record in records))
    return path


def framed(contents: Iterable[bytes]) -> bytes:
    """Return the log of records that are bytes already."""
    made = bytearray(struct.pack("<4sHB", b":W&B", 0xBEE1, 0))
    for content in contents:
        rest, first = content, True
        while first or rest:
            room = BLOCK - len(made) % BLOCK
            if room < 7:
                made += bytes(room)
                room = BLOCK
            chunk, rest = rest[: room - 7], rest[room - 7 :]
            kind = bytes([(1 if first else 4) if not rest else (2 if first else 3)])
            made += struct.pack("<IH", zlib.crc32(kind + chunk), len(chunk)) + kind + chunk
            first = False
    return bytes(made)


def run(run_id: str, name: str = "", config: Mapping[str, Any] | None = None, started: float = 1.7e9) -> Record:
    """What a log says of its run."""
    record = Record()
    record.run.run_id, record.run.display_name, record.run.project = run_id, name, "p"
    record.run.start_time.FromNanoseconds(int(started * 1e9))
    for key, value in (config or {}).items():
        record.run.config.update.add(key=key, value_json=json.dumps(value))
    return record


def history(step: int, row: Mapping[str, Any]) -> Record:
    """A row of the history."""
    record = Record()
    record.history.step.num = step
    for key, value in {**row, "_step": step}.items():
        record.history.item.add(nested_key=[key], value_json=json.dumps(value))
    return record


def system(time: float, row: Mapping[str, Any]) -> Record:
    """A row of the system stream."""
    record = Record()
    record.stats.timestamp.FromNanoseconds(int(time * 1e9))
    for key, value in row.items():
        record.stats.item.add(key=key, value_json=json.dumps(value))
    return record


def end(code: int = 0) -> Record:
    """What a run says last."""
    record = Record()
    record.exit.exit_code = code
    return record


def gpu_system(gpu: int, used_gb: float, of_gb: float = 24.0, **other: float) -> dict[str, float]:
    """What W&B samples of one GPU, under its names."""
    values = {"gpu": 50.0, "memory": 20.0, "temp": 60.0, "powerWatts": 200.0, "enforcedPowerLimitWatts": 300.0, **other}
    memory = {"memoryAllocated": 100 * used_gb / of_gb, "memoryAllocatedBytes": used_gb * 1024**3}
    return {f"gpu.{gpu}.{name}": value for name, value in {**values, **memory}.items()}
