"""A list of ten thousand runs, against reading their two files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from benchmarks.harness import Comparison, Goal, compare
from expkit.detectors.loss_spike_robust import LossSpikeRobust

__all__ = ["BASELINE", "RUNS", "TEXT", "THREADS", "make_outputs", "measure", "plain_scan"]

THREADS = "one thread"

BASELINE = "a plain scan: two files of each read and parsed"
RUNS = 10_000

TEXT = f"""\
{RUNS:,} run directories, each with a config.json of 7 KB, a status.json of 1 KB, a results.json and a journal, in the
operating system's cache. The *plain scan* is a process that reads config.json and status.json of each with orjson, and
does nothing with them; the others are `expkit runs` as it is typed, Python's start included. *All of them* prints
{RUNS:,} lines: state, step, times, best value and what was typed of its configuration; without `--limit` the last 30
are printed. A fifth of the runs says that it runs, though its process is gone: each of those is asked about."""

_PLAIN = """
import glob, sys, orjson
for folder in glob.glob(sys.argv[1] + "/*"):
    for name in ("config.json", "status.json"):
        with open(f"{folder}/{name}", "rb") as file:
            orjson.loads(file.read())
"""
_ROOT = Path(__file__).resolve().parent.parent


def make_outputs(outputs: Path, count: int) -> None:
    """Make run directories as training leaves them."""
    states = ("finished", "finished", "failed", "preempted", "running")
    for number in range(count):
        root = outputs / f"denoise_two_layer_net_adam_20260101_{number:06d}_abcd"
        (root / "logs").mkdir(parents=True)
        beat = time.time() - 3600 - number
        metrics = {
            f"{part}_{name}": number / count for part in ("train", "val") for name in ("loss", "psnr", "loss_on")
        }
        status = {
            "state": states[number % len(states)],
            "step": number,
            "total_steps": count,
            "metrics": {**metrics, "final/best_val_loss": number / count},
            "heartbeat_time": beat,
            "started": "2026-01-01T12:00:00+00:00",
            "pid": 2**22 + 1,
            "host": os.uname().nodename,
            "machine": {"memory_used_gb": 1.5, "memory_limit_gb": 16.0, "filler": "x" * 700},
        }
        config = {
            "experiment_id": root.name,
            "timestamp": "2026-01-01T12:00:00+00:00",
            "overrides": [f"optimizer.lr={number / count}"],
            "config": {
                "trainer": {"seed": number % 5},
                "optimizer": {"_target_": "torch.optim.Adam", "lr": number / count},
                "detectors": {f"rule_{each}": dict(vars(LossSpikeRobust())) for each in range(12)},
            },
        }
        journal = "".join(json.dumps({"step": step, "time": beat, **metrics}) + "\n" for step in range(20))
        for name, content in (
            ("status.json", status),
            ("config.json", config),
            ("results.json", {"final_metrics": metrics}),
        ):
            (root / name).write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2, default=str))
        (root / "logs" / "metrics.jsonl").write_text(journal)


def plain_scan(outputs: Path) -> float:
    """Return the seconds that a process takes to read two files of each run."""
    return _seconds(["-c", _PLAIN, str(outputs)])


def listing(outputs: Path, *options: str) -> float:
    """Return the seconds that `expkit runs` takes."""
    return _seconds(["-m", "expkit", "runs", str(outputs), *options])


def measure(rounds: int = 3, count: int = RUNS) -> Comparison:
    """Return the seconds of each competitor."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / "outputs"
        make_outputs(outputs, count)
        competitors = {
            BASELINE: lambda: plain_scan(outputs),
            "`expkit runs`": lambda: listing(outputs),
            "`expkit runs --limit 0`: all of them": lambda: listing(outputs, "--limit", "0"),
            "`--filter 'optimizer.lr>0.5' --state crashed --sort best_val_loss`": lambda: listing(
                outputs, "--filter", "optimizer.lr>0.5", "--state", "crashed", "--sort", "best_val_loss"
            ),
            "`expkit runs --json`": lambda: listing(outputs, "--json"),
        }
        return compare(competitors, BASELINE, "seconds", rounds=rounds)


def goals(result: Comparison) -> list[Goal]:
    """Return the goal: all of them at once on the screen."""
    plain, last, everything, *_ = result.rows()
    return [
        Goal(
            f"{RUNS:,} run directories listed within 2 s",
            f"all {everything.median:.1f} s, the last 30 {last.median:.1f} s",
            everything.median <= 2,
            f"reading and parsing two files of each takes {plain.median:.1f} s of it",
        )
    ]


def _seconds(arguments: Sequence[str]) -> float:
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - began
