"""Seconds from starting Python to the first training step done, against a process that only imports torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from benchmarks.harness import Comparison, compare

__all__ = ["BASELINE", "OVERRIDES", "TEXT", "THREADS", "bare_step", "first_step", "import_torch", "measure"]

THREADS = "torch on as many threads as it takes by itself"

BASELINE = "`import torch`"

# What any PyTorch program needs before its first step is done: torch imports more of itself with the first optimizer.
_BARE = """
import time, torch
model = torch.nn.Linear(64, 64)
optimizer = torch.optim.Adam(model.parameters(), fused=True)
model(torch.ones(8, 64)).sum().backward()
optimizer.step()
print(time.time())
"""

#: The second step ends the run; the first one's record is written before anything is evaluated, saved or drawn.
OVERRIDES = ("trainer.max_epochs=null", "trainer.max_steps=2", "trainer.log_interval=1", "run.min_free_gb=0")

TEXT = """\
How long one waits for the first step. Each sample is a fresh process, timed from just before it is started: the
baseline until `import torch` has returned, `python -m train` (the bundled task, all defaults) until its first training
step is in the journal, by the time that the journal's first line carries. So Python's start, every import, the
configuration, the run directory, the data, the trackers' start and the step itself count; what comes after it does not.
*Bare PyTorch* is a script that does one fused Adam step of one linear layer: what torch itself imports late, with its
first optimizer, is in there. trackio writes to a fresh folder each time. Every file is in the operating system's cache,
and byte-compiled."""

_ROOT = Path(__file__).resolve().parent.parent


def import_torch() -> float:
    """Return the seconds until a fresh Python has imported torch."""
    return _until("import torch, time; print(time.time())")


def bare_step() -> float:
    """Return the seconds until a fresh Python has done one step of one layer, without expkit."""
    return _until(_BARE)


def first_step(*overrides: str) -> float:
    """Return the seconds until `python -m train` with `overrides` has done its first step."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        _python(
            ["-m", "train", f"run.outputs={folder}/outputs", *OVERRIDES, *overrides],
            Path(folder),
            {"TRACKIO_DIR": f"{folder}/trackio"},
        )
        [journal] = Path(folder).glob("outputs/*/logs/metrics.jsonl")
        first = orjson.loads(journal.read_bytes().splitlines()[0])
    assert first["step"] == 1
    return float(first["time"]) - began


def measure(rounds: int = 9) -> Comparison:
    """Return the seconds of each competitor."""
    competitors: dict[str, Callable[[], float]] = {
        BASELINE: import_torch,
        "first step of bare PyTorch": bare_step,
        "first step of `python -m train tracker=[]`": lambda: first_step("tracker=[]"),
        "first step of `python -m train` (trackio)": first_step,
    }
    return compare(competitors, BASELINE, "seconds", rounds=rounds)


def _until(program: str) -> float:
    began = time.time()
    return float(_python(["-c", program], _ROOT, {})) - began


def _python(arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> str:
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout
