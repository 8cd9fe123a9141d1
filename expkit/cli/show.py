"""`expkit show RUN`: what a run was, how it went, and what to type next."""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from expkit.cli.finding import find_any
from expkit.cli.parser import Parser
from expkit.cli.show_text import lines
from expkit.ending import Ending, ending
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.forecast import forecast_text
from expkit.lenient_json import dump_json
from expkit.listing.about import about
from expkit.listing.entry import RunEntry, entry_of
from expkit.longer import again, longer
from expkit.small_files import checked
from expkit.standing import sign_of, standing
from expkit.trackers.known import known

__all__ = ["ShowCommand", "describe"]

_SAYS_NOTHING = {"killed": "dead", "silent": "silent"}

_EXAMPLES = """examples:
  expkit show                     the newest run in outputs
  expkit show RUN                 a run directory, of one's own loop too
  expkit show k3xq                the end of an id will do
  expkit show RUN --json          one JSON object, for programs"""


class ShowCommand:
    """Shows one run from its files alone."""

    summary = "what a run was, how it went, and what to type next"

    def run(self, arguments: Sequence[str]) -> int:
        """Print the run, as text or (--json) as JSON."""
        options = self.parser().parse_args(arguments)
        summary = describe(find_any(options.run, Path("outputs")))
        if options.json:
            sys.stdout.buffer.write(dump_json(summary, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        else:
            print("\n".join(lines(summary)))
        return 0

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit show",
            description=self.summary + ".",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "run",
            nargs="?",
            help="a run directory, the id of one in outputs or its end, or latest (the default)",
        )
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
        return parser


def describe(run: RunDir) -> dict[str, Any]:
    """Return what there is to say of `run`, from its small files and the end of its journal.

    Raises:
        UserError: one of its files cannot be read.
    """
    config = checked("config.json", read_json(run.config)) if run.config.exists() else {}
    entry = entry_of(run)
    status = checked("status.json", read_json(run.status)) if run.status.exists() else _without_status(entry)
    ended = ending(run)
    state = standing(status, sign_of(ended)) if ended is not None else entry.state
    said = _standing(status, ended)
    step = _step(entry, status, ended)
    command = config.get("command") or ""
    metrics = {
        name: value
        for name, value in (entry.newest_metrics if entry.status else entry.metrics).items()
        if name.startswith(("train_", "val_", "final/", "loss"))
    }
    saved = any(run.checkpoints.glob("checkpoint_step_*"))
    checkpoints = {"checkpoints": f"expkit checkpoints {shlex.quote(str(run.root))}"} if saved else {}
    found = {
        "run": str(run.root),
        **said,
        "step": f"{step} of {status.get('total_steps') or '?'}",
        "started": config.get("timestamp"),
        "command": command if isinstance(command, str) else " ".join(command),
        "git": config.get("git_hash"),
        **_responses(config, status),
        "metrics": metrics,
        **checkpoints,
        "next": _next(run, said["state"], config, status),
        "standing": state,
        "git_dirty": config.get("git_dirty"),
        **about(entry),
    }
    return {**found, "commands": _commands(run, state, found, config, status)}


def _step(entry: RunEntry, status: Mapping[str, Any], ended: Ending | None) -> int:
    """Return the last step that is known of: a heartbeat is seconds older than the journal's end."""
    steps = (ended.step if ended is not None else None, status.get("step"), entry.last.get("step"))
    return max((step for step in steps if isinstance(step, int)), default=0)


def _commands(
    run: RunDir, state: str, found: Mapping[str, Any], config: Mapping[str, Any], status: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return what to type next, the most useful first, and what each does."""
    root = shlex.quote(str(run.root))
    resume = _again(run, config) if config.get("config") is not None else None
    said = []
    if state in ("starting", "running", "stalled", "unknown"):
        said.append((f"expkit monitor {root}", "its curves, while it runs"))
    if state in ("crashed", "failed", "interrupted", "preempted") and resume is not None:
        said.append((resume, "goes on where it stopped"))
    if state in ("failed", "crashed", "finished") and "nonfinite" in found.get("events", {}).get("kinds", {}):
        said.append((f"expkit bisect-nan {root}", "the first module that was not finite"))
    if state in ("finished", "interrupted", "crashed", "failed"):
        said.append((f"expkit compare {root} OTHER_RUN", "in what they differ, and what came of it"))
        said.append((f"expkit report {root} -o report.html", "one page, to look at or to hand on"))
    for name in found.get("undelivered", {}) if state not in ("starting", "running", "stalled") else ():
        to = name if name in known() else "package.module:CLASS"
        said.append((f"expkit replay {root} --to {to}", f"sends what {name} lacks"))
    if "offline_wandb" in found and state not in ("starting", "running", "stalled"):
        said.append((f"expkit sync {root}", "uploads its offline W&B run, where there is a network"))
    if "snapshots" in found:
        said.append((f"expkit snapshots {root}", "what was kept when something happened"))
    if "checkpoints" in found:
        said.append((f"expkit checkpoints {root} --verify", "whether every byte of its checkpoints is right"))
    if state == "finished" and resume is not None:
        said.append((_longer(resume, config, status), "trains it on"))
    return [{"command": command, "does": does} for command, does in said]


def _responses(config: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what detectors' events have done to a run: where it was rewound, and what it was stopped by."""
    resumes = [each for each in config.get("resumes") or () if isinstance(each, Mapping)]
    rewinds = [each["rewind"] for each in resumes if isinstance(each.get("rewind"), Mapping)]
    said = [f"step {each.get('seen')} -> {each.get('step')} ({each.get('why')})" for each in rewinds]
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


def _next(run: RunDir, state: str, config: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """Return what to type next, in one line for programs; `commands` has more."""
    if state in ("starting", "running", "unknown") or state.startswith("silent"):
        return f"expkit show {shlex.quote(str(run.root))} --json"
    resume = _again(run, config)
    return _longer(resume, config, status) if state == "finished" else resume


def _again(run: RunDir, config: Mapping[str, Any]) -> str:
    return again(run.root, _config_dirs(config.get("command")))


def _longer(command: str, config: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    trainer = (config.get("config") or {}).get("trainer")
    more = longer(trainer, status.get("step"), status.get("total_steps")) if isinstance(trainer, dict) else ""
    return f"{command} {more}".rstrip()


def _config_dirs(command: Any) -> list[str]:
    """Return the values of --config-dir in the command that a run was started with."""
    words = command.split() if isinstance(command, str) else [str(word) for word in command or ()]
    pairs = itertools.chain.from_iterable(word.split("=", 1) if word.startswith("--") else [word] for word in words)
    return [value for option, value in itertools.pairwise(pairs) if option in ("--config-dir", "-cd")]


def _without_status(entry: RunEntry) -> dict[str, Any]:
    """Return what the journal, or results.json alone, tells of a run that is not the runner's."""
    return {"state": "unknown", "step": entry.last.get("step", 0), "metrics": dict(entry.metrics)}
