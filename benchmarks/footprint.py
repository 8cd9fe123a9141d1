"""What a run leaves on the disk, and 10,000 of them: files, bytes, and bytes of the journal for each step."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TEXT", "THREADS", "Footprint", "Usage", "measure", "usage"]

THREADS = "one thread"

_STEPS = 2000
_JOBS = 10_000
_ROOT = Path(__file__).resolve().parent.parent
#: What is chosen -> the command line.
_KINDS = {
    "as it is": (),
    "without pictures": ("plots=[]",),
    "without pictures, the last checkpoint and the best": ("plots=[]", "checkpoint.keep_last_n=1"),
    "with W&B and trackio": ("tracker=[wandb,trackio]",),
    "with W&B and trackio, without pictures": ("tracker=[wandb,trackio]", "plots=[]"),
}

TEXT = f"""\
`python -m train task=classify trainer.max_epochs=null trainer.max_steps={_STEPS}`, a record every 10 steps, with the
trackers that are named (trackio: one database for all runs of a project, not counted here). *Files* are those of one
run directory, *MB* what they hold. The journal's bytes for a step include what was recorded at the end of each epoch.
The last columns are {_JOBS:,} times as much: on paper, that is, not from so many runs."""


@dataclass(frozen=True)
class Usage:
    """What a run directory holds.

    Attributes:
        files, folders: how many there are.
        size: bytes of all files.
        checkpoints: bytes of those in checkpoints/.
        journal: bytes of logs/metrics.jsonl.
    """

    files: int
    folders: int
    size: int
    checkpoints: int
    journal: int


def usage(run: Path) -> Usage:
    """Return what a run directory holds. Links are not followed."""
    files = [Path(folder, name) for folder, _, names in os.walk(run) for name in names]
    sizes = {file: file.lstat().st_size for file in files}
    return Usage(
        len(files),
        1 + sum(len(folders) for _, folders, _ in os.walk(run)),
        sum(sizes.values()),
        sum(size for file, size in sizes.items() if file.parent.name == "checkpoints"),
        sizes.get(run / "logs" / "metrics.jsonl", 0),
    )


@dataclass(frozen=True)
class Footprint:
    """What runs of several kinds hold, and of how many steps they were."""

    kinds: dict[str, Usage]
    steps: int

    def markdown(self) -> str:
        """Return it as a table."""
        lines = [
            f"| a run of {self.steps:,} steps | files | folders | MB | of these checkpoints | journal, bytes a step "
            f"| {_JOBS:,} of them: files | GB |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for kind, used in self.kinds.items():
            lines.append(
                f"| {kind} | {used.files} | {used.folders} | {used.size / 1e6:.2f} | {used.checkpoints / 1e6:.2f} "
                f"| {used.journal / self.steps:.0f} | {used.files * _JOBS:,} | {used.size * _JOBS / 1e9:.1f} |"
            )
        return "\n".join(lines)


def measure(steps: int = _STEPS) -> Footprint:
    """Train a run of each kind and look at what it left."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, chosen) in enumerate(_KINDS.items()):
            command = [
                sys.executable,
                "-m",
                "train",
                "task=classify",
                "trainer.max_epochs=null",
                f"trainer.max_steps={steps}",
                *chosen,
            ]
            command += ["trainer.threads=1", f"run.outputs={folder}", f"run.id=run{number}", "run.min_free_gb=0"]
            environment = {**os.environ, "TRACKIO_DIR": f"{folder}/trackio"}
            subprocess.run(command, cwd=_ROOT, env=environment, check=True, capture_output=True)
            found[kind] = usage(Path(folder, f"run{number}"))
    return Footprint(found, steps)
