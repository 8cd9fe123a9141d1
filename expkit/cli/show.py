"""`expkit show RUN`: what a run was, how it stands, and what to type next."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from expkit.errors import UserError
from expkit.experiment import RunDir, newest_run
from expkit.files import process_alive, read_json

__all__ = ["ShowCommand"]

_DEAD_AFTER = 30.0


class ShowCommand:
    """Shows one run from its files alone."""

    summary = "what a run was, how it stands, and what to type next"

    def run(self, arguments: Sequence[str]) -> int:
        """Print the run, as text or (--json) as JSON."""
        parser = argparse.ArgumentParser(
            prog="expkit show",
            description=self.summary,
            epilog="examples: expkit show outputs/denoise_... | expkit show (the newest run) | expkit show RUN --json",
        )
        parser.add_argument("run", nargs="?", help="a run directory; the newest one in outputs if left out")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
        options = parser.parse_args(arguments)
        summary = describe(RunDir(options.run) if options.run else newest(Path("outputs")))
        if options.json:
            sys.stdout.buffer.write(orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            return 0
        for name, value in summary.items():
            if isinstance(value, dict):
                value = "  ".join(f"{key} {_short(item)}" for key, item in value.items())
            print(f"{name:<11} {_short(value)}")
        return 0


def newest(outputs: Path) -> RunDir:
    """Return the run in `outputs` that was active last.

    Raises:
        UserError: there is none.
    """
    run = newest_run(outputs)
    if run is None:
        raise UserError(f"there is no run in {outputs.absolute()}: name one, or start one with python -m train")
    return run


def describe(run: RunDir) -> dict[str, Any]:
    """Return what there is to say of `run`, from config.json and status.json.

    Raises:
        UserError: it is no run directory.
    """
    config = read_json(run.config)
    status: dict[str, Any] = read_json(run.status) if run.status.exists() else {"state": "unknown"}
    state, silent = status.get("state", "unknown"), time.time() - (status.get("heartbeat_time") or 0)
    gone = status.get("host") == platform.node() and not process_alive(int(status.get("pid") or 0))
    if state in ("starting", "running") and (gone or silent > _DEAD_AFTER):
        state = f"dead (said {state}, last heartbeat {silent:.0f} s ago)"
    following = f"expkit show {run.root} --json"
    if state not in ("starting", "running", "unknown"):
        following = f"python -m train resume={run.root}" + (
            " trainer.max_epochs=... (more of them)" if state == "finished" else ""
        )
    command = config.get("command") or ""
    metrics = {
        name: value
        for name, value in (status.get("metrics") or {}).items()
        if name.startswith(("train_", "val_", "final/"))
    }
    return {
        "run": str(run.root),
        "state": state,
        "step": f"{status.get('step', 0)} of {status.get('total_steps') or '?'}",
        "started": config.get("timestamp"),
        "command": command if isinstance(command, str) else " ".join(command),
        "git": config.get("git_hash"),
        "metrics": metrics,
        "next": following,
    }


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
