"""`expkit show RUN`: what a run was, how it stands, and what to type next."""

from __future__ import annotations

import itertools
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from expkit.cli.finding import find
from expkit.cli.parser import Parser
from expkit.ending import Ending, ending
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.forecast import forecast_text
from expkit.journal import read_journal

__all__ = ["ShowCommand"]

_SAYS_NOTHING = {"killed": "dead", "silent": "silent"}


class ShowCommand:
    """Shows one run from its files alone."""

    summary = "what a run was, how it stands, and what to type next"

    def run(self, arguments: Sequence[str]) -> int:
        """Print the run, as text or (--json) as JSON."""
        parser = Parser(
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
            if isinstance(value, dict) and "text" in value:
                value = value["text"]
            elif isinstance(value, dict):
                value = "  ".join(f"{key} {_short(item)}" for key, item in value.items())
            if value not in ("", None):
                print(f"{name:<11} {_short(value)}")
        return 0


def describe(run: RunDir) -> dict[str, Any]:
    """Return what there is to say of `run`, from config.json and status.json.

    Raises:
        UserError: it is no run directory.
    """
    config = read_json(run.config)
    status: dict[str, Any] = read_json(run.status) if run.status.exists() else _without_status(run)
    ended = ending(run)
    standing = _standing(status, ended)
    step = ended.step if ended is not None and ended.step is not None else status.get("step", 0)
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
        **standing,
        "step": f"{step} of {status.get('total_steps') or '?'}",
        "started": config.get("timestamp"),
        "command": command if isinstance(command, str) else " ".join(command),
        "git": config.get("git_hash"),
        **_responses(config, status),
        "metrics": metrics,
        **checkpoints,
        "next": _next(run, standing["state"], config),
    }


def _responses(config: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what detectors' events have done to a run: where it was rewound, and what it was stopped by."""
    rewinds = [each["rewind"] for each in config.get("resumes") or () if "rewind" in each]
    said = [f"step {each['seen']} -> {each['step']} ({each['why']})" for each in rewinds]
    return {
        **({"rewound": "; ".join(said)} if said else {}),
        **({"stopped_by": status["stopped_by"]} if status.get("stopped_by") else {}),
    }


def _standing(status: Mapping[str, Any], ended: Ending | None) -> dict[str, Any]:
    """Return the state of a run; how it ended and its last event, if that was no clean end; what is to come of it."""
    state = str(status.get("state", "unknown"))
    if ended is None:
        forecast = status.get("forecast") if state == "running" else None
        text = forecast_text(forecast) if isinstance(forecast, Mapping) else ""
        return {"state": state, **({"forecast": {**forecast, "text": text}} if forecast and text else {})}
    if ended.state in ("killed", "silent"):
        quiet = time.time() - (status.get("heartbeat_time") or 0)
        state = f"{_SAYS_NOTHING[ended.state]} (said {state}, last heartbeat {quiet:.0f} s ago)"
    if ended.clean:
        return {"state": state}
    told = {"ended": {"state": ended.state, "why": ended.why, "certain": ended.certain, "text": ended.text}}
    event = {"event": {**ended.last_event, "text": ended.event_text}} if ended.last_event is not None else {}
    return {"state": state, **told, **event}


def _next(run: RunDir, state: str, config: Mapping[str, Any]) -> str:
    """Return what to type next: with the folders of one's own configuration, which a resume needs again."""
    if state in ("starting", "running", "unknown") or state.startswith("silent"):
        return f"expkit show {run.root} --json"
    words = [word for each in _config_dirs(config.get("command")) for word in ("--config-dir", shlex.quote(each))]
    again = " ".join(["python -m train", *words, f"resume={run.root}"])
    if state != "finished":
        return again
    trainer = (config.get("config") or {}).get("trainer") or {}
    limit = "max_steps" if trainer.get("max_steps") is not None else "max_epochs"
    return f"{again} trainer.{limit}=... (more than {trainer[limit]})" if trainer.get(limit) is not None else again


def _config_dirs(command: Any) -> list[str]:
    """Return the values of --config-dir in the command that a run was started with."""
    words = command.split() if isinstance(command, str) else [str(word) for word in command or ()]
    pairs = itertools.chain.from_iterable(word.split("=", 1) if word.startswith("--") else [word] for word in words)
    return [value for option, value in itertools.pairwise(pairs) if option in ("--config-dir", "-cd")]


def _without_status(run: RunDir) -> dict[str, Any]:
    """Return what the journal tells of a run that is not the runner's."""
    last = {}
    for entry in read_journal(run.metrics) if run.metrics.exists() else ():
        last = entry
    return {"state": "unknown", "step": last.get("step", 0), "metrics": last}


def _short(value: Any) -> str:
    if value is None:  # JSON has no NaN
        return "not finite"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
