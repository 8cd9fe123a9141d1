"""A sweep's folder made by hand, with runs of files alone, and a queue of SLURM's that says what a test wants."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expkit.sweep.folder import JobFile, Submission, SweepDir

SUFFIX = "20260101_120000_abcd"


class Made:
    """A sweep in the making: 4 jobs over the learning rate."""

    def __init__(self, outputs: Path, folder: Path) -> None:
        self.outputs = outputs
        self.folder = SweepDir(folder)
        self.folder.begin(
            {"jobs": 4, "suffix": SUFFIX, "launcher": "slurm_requeue", "kind": "slurm", "folder": str(Path.cwd())}
        )

    def job(self, number: int, state: str = "queued", **more: Any) -> JobFile:
        overrides = ("tracker=[]", f"optimizer.lr={10.0**-number:g}", "sweep.wait=false")
        job = JobFile(number, overrides, state, **more)
        self.folder.write(job)
        return job

    def run(self, number: int, **status: Any) -> str:
        """Make a run directory for a job; return its path as the job's file has it."""
        root = self.outputs / f"denoise_{SUFFIX}-{number}"
        root.mkdir(parents=True)
        config = {"config": {"run": {"group": self.folder.root.name}}, "overrides": []}
        (root / "config.json").write_text(json.dumps(config))
        alive = {"pid": os.getpid(), "host": platform.node(), "heartbeat_time": time.time()}
        (root / "status.json").write_text(json.dumps({"state": "running", "total_steps": 100, **alive, **status}))
        return self.folder.relative(root)

    def submitted(self, *numbers: int, kind: str = "slurm", **more: Any) -> None:
        jobs = {number: f"7_{number}" if kind == "slurm" else None for number in numbers}
        self.folder.note(Submission(kind, jobs, **more))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A sweep in tmp_path/outputs/multirun, from tmp_path."""
    monkeypatch.chdir(tmp_path)
    return Made(tmp_path / "outputs", tmp_path / "outputs" / "multirun" / "20260101_120000")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Call as `slurm("7_0|RUNNING", ...)`: what squeue says; scancel's arguments are in the file that is returned."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def write(*rows: str, code: int = 0, error: str = "") -> Path:
        said = "\n".join(f"echo '{row}'" for row in rows)
        scripts = {
            "squeue": f"{said}\necho '{error}' >&2\nexit {code}",
            "scancel": f'echo "$@" >> {tmp_path}/cancelled',
            "sacct": "exit 1",
            "scontrol": "exit 1",
        }
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return tmp_path / "cancelled"

    return write
