"""Submitting a sweep of a thousand jobs, against a sweep of one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Comparison, compare

__all__ = ["BASELINE", "JOBS", "TEXT", "THREADS", "measure", "submit"]

THREADS = "one thread"

BASELINE = "a sweep of one job"
JOBS = 1000

TEXT = f"""\
`python -m train -m hydra/launcher=slurm sweep.wait=false trainer.seed=range(N)` in a fresh process, from its start
until it has returned: Python, its imports and the configuration count. What stands for sbatch accepts everything at
once, so that SLURM's own time is left out. Afterwards the sweep's folder has a file for each of {JOBS:,} jobs, and
what submitit starts it from. The largest memory of each process (its resident set) is in the names."""

#: SLURM's commands: (name, body of a shell script).
_COMMANDS = (
    ("sbatch", 'case "$1" in --test-only) cat > /dev/null ;; *) echo "Submitted batch job 7" ;; esac'),
    *((name, "true") for name in ("srun", "sinfo", "scontrol", "squeue")),
)
_ROOT = Path(__file__).resolve().parent.parent
_PROGRAM = """
import resource, sys
from train.cli.main import main
code = main(["train", *sys.argv[1:]])
print(f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}")
sys.exit(code)
"""


def submit(jobs: int) -> tuple[float, float]:
    """Submit a sweep; return the seconds that it took, and the largest memory in MB (1024^2 bytes)."""
    with tempfile.TemporaryDirectory() as folder:
        commands = Path(folder, "bin")
        commands.mkdir()
        for name, body in _COMMANDS:
            (commands / name).write_text(f"#!/bin/sh\n{body}\n")
            (commands / name).chmod(0o755)
        path = os.pathsep.join((str(commands), os.environ["PATH"]))
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
        arguments = ("-m", "hydra/launcher=slurm", "sweep.wait=false", f"trainer.seed=range({jobs})")
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *arguments],
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        took = time.perf_counter() - began
        assert len([*Path(folder).glob("outputs/multirun/*/jobs/*.json")]) == jobs
        assert len([*Path(folder).glob("outputs/multirun/*/.submitit/*/*_submitted.pkl")]) == jobs
    return took, int(done.stdout.rsplit("memory ", 1)[1]) / 1024


def measure(rounds: int = 3) -> Comparison:
    """Return the seconds of both, with the memory in their names."""
    memory: dict[int, float] = {}

    def timed(jobs: int) -> float:
        took, used = submit(jobs)
        memory[jobs] = max(used, memory.get(jobs, 0.0))
        return took

    found = compare({BASELINE: lambda: timed(1), f"of {JOBS:,}": lambda: timed(JOBS)}, BASELINE, "s", rounds)
    names = dict(zip(found.samples, (1, JOBS), strict=True))
    samples = {f"{name}, {memory[jobs]:.0f} MB": found.samples[name] for name, jobs in names.items()}
    return Comparison(found.unit, next(iter(samples)), samples)
