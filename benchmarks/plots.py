"""What plots take from training: CPU seconds of the training process, with and without them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.harness import Comparison, compare

__all__ = ["TEXT", "THREADS", "measure"]

THREADS = "torch on 1 thread"
TEXT = """\
`python -m train task=...`, 475 steps of `denoise` and 100 of `gpt`, on the CPU, with `plots=[]` and with others, at
their default interval: every 100 steps, and at the end. A sample is a run: the CPU seconds of the training process (all
its threads) from the first step to the last. The process that draws is another one; it has low priority, and is not in
these figures. `blob` imports scikit-learn when it is drawn first, which is in them."""

_BASELINE = "plots=[]"
_RUNS = {
    "denoise": (
        ("task=denoise", "trainer.max_steps=475"),
        ("training,samples", "model", "blob", "training,model,blob"),
    ),
    "gpt": (("task=gpt", "trainer.max_steps=100"), ("training,samples", "model")),
}
_CHILD = """
import sys, time
from train.cli.main import main
from train.runner import Runner
fit = Runner.fit
def timed(self):
    began = time.process_time()
    finished = fit(self)
    print("CPU", time.process_time() - began, flush=True)
    return finished
Runner.fit = timed
sys.exit(main(["train", *sys.argv[1:]]))
"""


@dataclass(frozen=True)
class _Tables:
    tables: Mapping[str, Comparison]

    def markdown(self) -> str:
        """Return a Markdown table for each task."""
        return "\n\n".join(f"`task={task}`:\n\n{table.markdown()}" for task, table in self.tables.items())


def measure(rounds: int = 1, steps: int | None = None) -> _Tables:
    """Return what plots take from each task.

    Args:
        rounds: runs of each.
        steps: of a run, if not as many as the text says.
    """
    tables = {}
    for task, (arguments, plots) in _RUNS.items():
        more = (f"trainer.max_steps={steps}",) if steps is not None else ()
        competitors: dict[str, Callable[[], float]] = {
            name: partial(_cpu_seconds, *arguments, *more, name)
            for name in (_BASELINE, *(f"plots={each}" for each in plots))
        }
        tables[task] = compare(competitors, _BASELINE, "CPU seconds of a run", rounds, warmup=0)
    return _Tables(tables)


def _cpu_seconds(*arguments: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        fixed = (f"run.outputs={folder}", "tracker=[]", "checkpoint=none", "trainer.device=cpu", "trainer.threads=1")
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, *fixed, *arguments],
            capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parent.parent,
        )  # fmt: skip
    return next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("CPU "))
