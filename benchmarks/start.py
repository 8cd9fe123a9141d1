"""Seconds from starting Python to a configuration and to the first training step done, beside a Lightning template."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from benchmarks.harness import Comparison, Goal, compare

__all__ = ["BASELINE", "OVERRIDES", "TEXT", "THREADS", "competitors", "first_step", "goals", "measure", "template_step"]

THREADS = "torch on as many threads as it takes by itself"

BASELINE = "`import torch`"
_FIRST, _BARE_FIRST = "first step of `python -m train` (trackio)", "first step of bare PyTorch"
_TEMPLATES_FIRST = "first step of the template"

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
How long one waits. Each sample is a fresh process, timed from just before it is started: the baseline until `import
torch` has returned, a configuration until the process that prints it (`--cfg job`) has ended. A first step of
`python -m train` (the bundled task, all defaults but the trackers) counts until it is in the journal, by the time that
the journal's first line carries. So Python's start, every import, the configuration, the run directory, the data, the
trackers' start and the step itself count; what comes after it does not.

The template (`benchmarks/peers/template/`) is the same task, network, optimizer and batch size as one would write them
with Lightning and Hydra: a data module that reads the digits with scikit-learn, a LightningModule, a CSVLogger and a
ModelCheckpoint, all of it instantiated from a configuration; without progress bar, model summary and sanity check. A
callback says when its first step is done. *Bare PyTorch* is a script that does one fused Adam step of one linear layer:
what torch itself imports late, with its first optimizer, is in there. trackio and wandb (offline) write to a fresh
folder each time. Every file is in the operating system's cache, and byte-compiled."""

_ROOT = Path(__file__).resolve().parent.parent
_TEMPLATE = str(_ROOT / "benchmarks" / "peers" / "template" / "train.py")


def competitors() -> dict[str, Callable[[], float]]:
    """Return name -> what starts a process and returns its seconds."""
    return {
        BASELINE: lambda: _until("import torch, time; print(time.time())"),
        "configuration of `python -m train`": lambda: _whole(["-m", "train", "--cfg", "job"]),
        "configuration of the template": lambda: _whole([_TEMPLATE, "--cfg", "job"]),
        _BARE_FIRST: lambda: _until(_BARE),
        "first step of `python -m train tracker=[]`": lambda: first_step("tracker=[]"),
        _FIRST: first_step,
        "first step of `python -m train tracker=wandb,trackio`": lambda: first_step("tracker=wandb,trackio"),
        _TEMPLATES_FIRST: template_step,
    }


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


def template_step() -> float:
    """Return the seconds until the template has done its first step."""
    with tempfile.TemporaryDirectory() as folder:
        settings = (f"paths.log_dir={folder}/logs", "trainer.max_steps=2", "trainer.log_every_n_steps=1")
        began = time.time()
        said = _python([_TEMPLATE, *settings], Path(folder), {})
        assert list(Path(folder).glob("logs/*/runs/*/csv/*/metrics.csv"))
    [first] = re.findall(r"first step: ([\d.]+)", said)
    return float(first) - began


def measure(rounds: int = 3) -> Comparison:
    """Return the seconds of each competitor."""
    return compare(competitors(), BASELINE, "seconds", rounds=rounds)


def goals(result: Comparison) -> list[Goal]:
    """Return the goals: little more than importing torch, and less than the template takes."""
    rows = {row.name: row for row in result.rows()}
    first, template = rows[_FIRST], rows[_TEMPLATES_FIRST]
    return [
        Goal(
            "the first step: at most 1.5 s after `import torch`",
            f"{first.difference:+.2f} s; bare PyTorch {rows[_BARE_FIRST].difference:+.2f} s, "
            f"the template {template.difference:+.2f} s",
            first.difference <= 1.5,
        )
    ]


def _until(program: str) -> float:
    began = time.time()
    return float(_python(["-c", program], _ROOT, {})) - began


def _whole(arguments: Sequence[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        said = _python(arguments, Path(folder), {})
        took = time.time() - began
    assert "batch_size: 64" in said
    return took


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
