"""`python -m benchmarks [loop|checkpoint|...]`: measure, and put the results into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path

from benchmarks import (
    checkpoint,
    detectors,
    diagnostics_blob,
    diagnostics_svd,
    footprint,
    loop,
    monitor,
    monitor_faces,
    plots,
    processes,
    runs,
    start,
    svd_training,
    sweep,
    trackers,
    watch,
)
from benchmarks.harness import header

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

INTRODUCTION = """\
# Benchmarks

`python -m benchmarks` measures and writes this page; no figure on it is typed by hand. Competitors take turns in every
round, so that whatever else the machine does hits them alike. The difference and the ratio to the baseline are
taken within each round; the table has their median and quartiles.
"""

# name -> title, module, packages whose versions matter besides torch
BENCHMARKS = {
    "loop": (
        "A training step",
        loop,
        ("lightning", "accelerate", "transformers", "pytorch-ignite", "wandb", "trackio"),
    ),
    "processes": ("A step of several processes", processes, ()),
    "checkpoint": ("Checkpoints", checkpoint, ()),
    "trackers": ("A record", trackers, ("wandb", "trackio", "tensorboard")),
    "detectors": ("Detectors", detectors, ()),
    "watch": ("A watcher beside a run", watch, ("watchfiles",)),
    "monitor": ("Looking at a run", monitor, ("plotly", "tensorboard")),
    "faces": ("Looking at a run in the terminal and in a window", monitor_faces, ("uniplot", "matplotlib")),
    "plots": ("Pictures beside a run", plots, ("matplotlib", "scikit-learn")),
    "runs": ("A list of runs", runs, ("orjson",)),
    "footprint": ("What runs leave on the disk", footprint, ("wandb", "trackio")),
    "sweep": ("Submitting a sweep", sweep, ("hydra-core", "submitit")),
    "start": ("The first step", start, ("hydra-core", "lightning", "scikit-learn", "trackio", "wandb")),
    "blob": ("Blobs", diagnostics_blob, ("scikit-learn",)),
    "svd": ("Principal subspaces", diagnostics_svd, ()),
    "svd-training": ("Principal subspaces along a training", svd_training, ()),
}


def section(name: str) -> str:
    """Run one benchmark and return its part of the page."""
    title, module, packages = BENCHMARKS[name]
    table = module.measure().markdown()
    return f"## {title}\n\n{module.TEXT}\n\n{header(module.THREADS, *packages)}\n\n{table}\n"


def insert(page: str, name: str, text: str) -> str:
    """Return `page` with `text` between the marks of `name`, which are added at the end where they are missing."""
    begin, end = f"<!-- begin {name}: written by python -m benchmarks -->", f"<!-- end {name} -->"
    block = f"{begin}\n{text}{end}"
    found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", page, flags=re.DOTALL)
    return page.replace(found[0], block) if found else f"{page.rstrip()}\n\n{block}\n"


def main() -> None:
    """Run all benchmarks, or the one that is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=list(BENCHMARKS), help="only this one")
    name = parser.parse_args().name
    PAGE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRACKIO_DIR"] = folder  # trackio has one for as long as a process lives
        for each in [name] if name else BENCHMARKS:
            text = section(each)
            page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else INTRODUCTION
            PAGE.write_text(insert(page, each, text), encoding="utf-8")
            print(text)


if __name__ == "__main__":
    main()
