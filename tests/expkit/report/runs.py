"""Runs for reports: with events, pictures, samples, and names that somebody chose to do harm."""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

from expkit.experiment import RunDir
from expkit.journal import Journal
from expkit.record import Record

__all__ = ["EVIL", "make_run", "picture"]

EVIL = "</script><img src=x onerror=alert(1)>|`*"


def make_run(root: Path, seed: int = 0, lr: float = 0.1, steps: int = 20, **metrics: float) -> RunDir:
    """Make a run whose losses fall, with a spike at step 7 of which an event tells."""
    run = RunDir(root)
    run.logs.mkdir(parents=True)
    run.visualizations.mkdir()
    config = {
        "run": {"id": run.id, "dir": str(root)},
        "trainer": {"seed": seed},
        "optimizer": {"lr": lr, "betas": [0.9, 0.999]},
        "task": {"path": "/home/alice/data", "note": EVIL},
        "tracker": {"api_key": "hunter2"},
    }
    whole: dict[str, Any] = {
        "config": config,
        "timestamp": "2026-11-20T10:15:00+00:00",
        "command": ["/home/alice/venv/bin/python", "-m", "train", "tracker.api_key=hunter2"],
        "overrides": [f"optimizer.lr={lr}"],
        "git_hash": "abc123",
        "hardware": {"gpu_model": "NVIDIA H200", "gpu_count": 1},
        "packages": {"torch": "2.13.0"},
        "model": {"class": "CNN", "parameters": 21386},
    }
    run.config.write_text(json.dumps(whole))
    with Journal(run.metrics) as journal:
        for step in range(1, steps + 1):
            values = {"train_loss": 9.0 if step == 7 else 2 * lr + 1 / step + 0.01 * seed, "val_loss": lr + 1 / step}
            values |= {EVIL: math.sin(step), **metrics}
            journal.write(Record(step, 1 + step // 10, 1e9 + step, values), flush=False)
    spike = {
        "step": 7, "time": 1e9, "severity": "WARNING", "kind": "loss_spike", "detector": "robust",
        "values": {"value": 9.0}, "message": f"9 is far, says {EVIL} in /home/alice/x",
    }  # fmt: skip
    run.events.write_text(json.dumps(spike) + "\n")
    run.results.write_text(json.dumps({"generation_samples": [f"once upon {EVIL}", "visualizations/made_step_20.png"]}))
    for name in ("made_step_20", "blob_step_10", "blob_step_20"):
        (run.visualizations / f"{name}.png").write_bytes(picture())
    return run


def picture(size: int = 8) -> bytes:
    """Return a grey PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([120]) * size for _ in range(size))
    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
