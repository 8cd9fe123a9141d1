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
from expkit.experiment import RunDir, is_id, newest_run
from expkit.files import process_alive, read_json
from expkit.journal import read_journal

__all__ = ["ShowCommand", "find", "find_with"]

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
        parser.add_argument(
            "run",
            nargs="?",
            help="a run directory, the id of one in outputs, or latest (the default)",
        )
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
        options = parser.parse_args(arguments)
        summary = describe(find(options.run, Path("outputs")))
        if options.json:
            sys.stdout.buffer.write(orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            return 0
        for name, value in summary.items():
            if isinstance(value, dict):
                value = "  ".join(f"{key} {_short(item)}" for key, item in value.items())
            print(f"{name:<11} {_short(value)}")
        return 0


def find(name: str | None, outputs: Path) -> RunDir:
    """Return the run that `name` is the path or id of; of None, or latest, the one in `outputs` that was active last.

    Raises:
        UserError: there is none.
    """
    for place in (Path(name), *([outputs / name] if is_id(name) else [])) if name else ():
        if RunDir(place).exists():
            return RunDir(place)
    if name not in (None, "", "latest"):
        raise UserError(f"{name} is no run: name a run directory, or the id of a run in {outputs.absolute()}")
    run = newest_run(outputs)
    if run is None:
        raise UserError(f"there is no run in {outputs.absolute()}: name one, or start one with python -m train")
    return run


def find_with(folder: str, name: str | None, outputs: Path) -> RunDir:
    """Return the run that `find` does; or of which `name` is this folder, or which has it: a copy is no run otherwise.

    Raises:
        UserError: there is none.
    """
    path = Path(name) if name else None
    if path is not None and path.is_dir():
        if path.resolve().name == folder:
            return RunDir(path.resolve().parent)
        if (path / folder).is_dir():
            return RunDir(path)
    return find(name, outputs)


def describe(run: RunDir) -> dict[str, Any]:
    """Return what there is to say of `run`, from config.json and status.json.

    Raises:
        UserError: it is no run directory.
    """
    config = read_json(run.config)
    status: dict[str, Any] = read_json(run.status) if run.status.exists() else _without_status(run)
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
        if name.startswith(("train_", "val_", "final/", "loss"))
    }
    checkpoints = (
        {"checkpoints": f"expkit checkpoints {run.root}"} if any(run.checkpoints.glob("checkpoint_step_*")) else {}
    )
    return {
        "run": str(run.root),
        "state": state,
        "step": f"{status.get('step', 0)} of {status.get('total_steps') or '?'}",
        "started": config.get("timestamp"),
        "command": command if isinstance(command, str) else " ".join(command),
        "git": config.get("git_hash"),
        "metrics": metrics,
        **checkpoints,
        "next": following,
    }


def _without_status(run: RunDir) -> dict[str, Any]:
    """Return what the journal tells of a run that is not the runner's."""
    last = {}
    for entry in read_journal(run.metrics) if run.metrics.exists() else ():
        last = entry
    return {"state": "unknown", "step": last.get("step", 0), "metrics": last}


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
