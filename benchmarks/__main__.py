"""`python -m benchmarks [NAME ...]`: measure, and put the results into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

# name -> title, module, packages whose versions matter besides torch; in the order of the page
BENCHMARKS = {
    "loop": (
        "A training step",
        "loop",
        ("lightning", "accelerate", "transformers", "pytorch-ignite", "wandb", "trackio"),
    ),
    "processes": ("A step of several processes", "processes", ()),
    "start": ("The first step", "start", ("hydra-core", "lightning", "scikit-learn", "trackio", "wandb")),
    "journal": ("Keeping, reading and following records", "journal", ("wandb", "trackio", "tensorboard")),
    "trackers": ("Trackers beside training", "trackers", ("wandb", "trackio", "tensorboard")),
    "checkpoint": ("Checkpoints", "checkpoint", ("lightning", "safetensors")),
    "blob": ("Blobs", "diagnostics_blob", ("scikit-learn",)),
    "svd": ("Principal subspaces", "diagnostics_svd", ()),
    "svd-training": ("Principal subspaces along a training", "svd_training", ()),
    "detectors": ("Detectors", "detectors", ()),
    "watch": ("A watcher beside a run", "watch", ("watchfiles",)),
    "monitor": ("Looking at a run", "monitor", ("plotly", "tensorboard")),
    "faces": ("Looking at a run in the terminal and in a window", "monitor_faces", ("uniplot", "matplotlib")),
    "scale": ("A long run", "scale", ()),
    "runs": ("A list of runs", "runs", ("orjson",)),
    "plots": ("Pictures beside a run", "plots", ("matplotlib", "scikit-learn")),
    "footprint": ("What runs leave on the disk", "footprint", ("wandb", "trackio")),
    "sweep": ("Submitting a sweep", "sweep", ("hydra-core", "submitit")),
}


def section(name: str) -> str:
    """Run one benchmark and return its part of the page.

    Its module has `measure()`, whose result has `markdown()`; `TEXT`, `THREADS`; and, if it has goals, `goals(result)`.
    """
    from benchmarks.harness import header
    from benchmarks.page import part

    title, module_name, packages = BENCHMARKS[name]
    module = importlib.import_module(f"benchmarks.{module_name}")
    result = module.measure()
    goals = module.goals(result) if hasattr(module, "goals") else ()
    return part(title, module.TEXT, header(module.THREADS, *packages), result.markdown(), goals)


def write(name: str) -> None:
    """Run one benchmark and put its part into the page."""
    from benchmarks.page import put

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRACKIO_DIR"] = folder  # read when trackio is imported; nothing goes to the user's own
        text = section(name)
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    PAGE.parent.mkdir(exist_ok=True)
    titles = {each: title for each, (title, _, _) in BENCHMARKS.items()}
    PAGE.write_text(put(page, name, text, titles), encoding="utf-8")
    print(text)


def run_all(names: Sequence[str]) -> int:
    """Run each benchmark in a process of its own, and return how many have failed."""
    began, failed = time.monotonic(), []
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}: {BENCHMARKS[name][0]}", flush=True)
        start = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "benchmarks", name], check=False).returncode
        now = time.monotonic()
        print(f"[{number}/{len(names)}] {name}: {now - start:.0f} s, {_minutes(now - began)} so far", flush=True)
        if code:
            failed.append(f"{name} failed with exit code {code}; its part of the page is the old one")
    print(f"{len(names) - len(failed)} of {len(names)} benchmarks in {_minutes(time.monotonic() - began)}: {PAGE}")
    print("\n".join(failed), end="\n" if failed else "")
    return len(failed)


def main() -> None:
    """Run all benchmarks, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--list", action="store_true", help="say which there are")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:14}{title}" for name, (title, _, _) in BENCHMARKS.items()))
        return
    for name in arguments.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}: choose of {', '.join(BENCHMARKS)}")
    if len(arguments.names) == 1:
        write(arguments.names[0])
    else:
        sys.exit(min(run_all(arguments.names or list(BENCHMARKS)), 1))


def _minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


if __name__ == "__main__":
    main()
