"""`expkit replay RUN --to wandb,trackio`: sends what trackers lack of a run, after the fact."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import Progress

from expkit.cli.finding import find
from expkit.cli.parser import Parser
from expkit.errors import UserError, describe
from expkit.experiment import RunDir
from expkit.files import is_there, read_json
from expkit.lock import run_lock
from expkit.replay import Replay, run_info
from expkit.secrets import MASK
from expkit.status import note_delivered
from expkit.trackers import RunInfo, Tracker
from expkit.trackers.known import known, make_tracker, parameters

__all__ = ["ReplayCommand"]

_EXAMPLES = """examples:
  expkit replay RUN                                     to the trackers that the run has itself
  expkit replay RUN --to wandb,trackio                  to these, whatever it was trained with
  expkit replay RUN --to wandb wandb.mode=online        to the server; settings are those of tracker=...
  expkit replay RUN --to trackio --project shared       another project: a copy of its own
  expkit replay outputs/* --to wandb --dry-run          what would be sent

Nothing is sent twice. A W&B run that is not complete on this machine is written anew, as one folder to upload;
what there was of it is kept beside it as superseded-*, which `wandb sync` and `expkit sync` leave alone."""


class ReplayCommand:
    """Sends journals to trackers."""

    summary = "send a run's journal, pictures and events to trackers, after the fact"

    def run(self, arguments: Sequence[str]) -> int:
        """Send and say what was sent. The exit code is 1 if a tracker of a run has failed; the others go on."""
        options = self.parser().parse_intermixed_args(arguments)
        settings = _settings([each for each in options.run if "=" in each and not is_there(each)])
        names = [each for each in options.run if "=" not in each or is_there(each)]
        if ":" in (options.to or "") and not {"", str(Path.cwd())} & set(sys.path):
            sys.path.append(str(Path.cwd()))  # the user's own class, where `python -m train` finds it too
        logging.raiseExceptions = False  # a tool's own log that meets a full disk is not worth a traceback a line
        failed = 0
        for name in names or [None]:
            if name and len(names) > 1 and Path(name).is_dir() and not RunDir(name).exists():
                continue  # of outputs/*: the folder of a sweep, say
            try:
                failed += self._all(find(name, Path("outputs")), settings, options)
            except UserError as error:
                failed += 1
                print(f"error: {error}", file=sys.stderr)
        return int(failed > 0)

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit replay",
            description="Send what trackers lack of a run: metrics with their steps and times, configuration, summary, "
            "pictures, events.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("run", nargs="*", help="run directories, or ids of runs in outputs; the newest without one")
        parser.add_argument("--to", metavar="TRACKERS", help="tracker,tracker; or package.module:Class of your own")
        parser.add_argument("--project", help="another project than the run's")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be sent")
        parser.add_argument("--json", action="store_true", help="one JSON object for each run and tracker")
        return parser

    def _all(self, run: RunDir, settings: dict[str, dict[str, str]], options: Any) -> int:
        """Replay one run to its trackers; return how many of them failed.

        Raises:
            UserError: there is no tracker to send to, or another process uses the run.
        """
        nodes = _nodes(run)
        targets = [*nodes] if options.to is None else [name for name in options.to.split(",") if name]
        if options.to is not None and not targets:
            raise UserError("--to names no tracker: --to wandb say")
        if not targets:
            raise UserError(f"{run.root} was trained without a tracker: name one, --to wandb say")
        unused = sorted(settings.keys() - set(targets))
        if unused:
            raise UserError(f"{unused[0]}.{next(iter(settings[unused[0]]))} is set, but --to has no {unused[0]}")
        failed = 0
        with contextlib.nullcontext() if options.dry_run else run_lock(run):
            for name in targets:
                try:
                    alias, own = _own(name, nodes)
                    _say(self._one(run, name, alias, own, settings.get(name, {}), options), options.json)
                except (UserError, OSError) as error:
                    failed += 1
                    said = error if isinstance(error, UserError) else describe(error)
                    print(f"error: {run.root}: {said}", file=sys.stderr)
        return failed

    def _one(
        self,
        run: RunDir,
        name: str,
        alias: str,
        own: Mapping[str, Any] | None,
        settings: Mapping[str, str],
        options: Any,
    ) -> dict[str, Any]:
        """Replay one run to one tracker, which the run calls `alias`; return what there is to say of it."""
        typed = {key: _value(name, key, text) for key, text in settings.items()}
        # This machine, now, is not the one that trained: W&B would sample it.
        quiet = {"system_metrics": False} if "system_metrics" in parameters(name) else {}
        arguments = {**(own or {}), **quiet, **typed}
        if options.project is not None and "project" in parameters(name):
            arguments["project"] = options.project
        if arguments.get("mode") == "disabled":
            raise UserError(f"{name}.mode=disabled: it would take nothing; choose another mode")
        tracker = make_tracker(name, arguments)
        changes = {"project": options.project} if options.project is not None else {}
        copy = _key(alias, own, arguments)
        replay = Replay(run, copy, tracker, run_info(run, **changes))
        complete, send = replay.complete, not (replay.complete or options.dry_run)
        if send:
            total = replay.held + replay.records
            with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
                bar = progress.add_task(f"{name} {run.id}", total=total)
                replay.send(lambda: progress.advance(bar))
        if copy == alias and not options.dry_run:  # the copy that the run itself made
            note_delivered(run.status, alias)
        return {
            "run": str(run.root),
            "tracker": name,
            "held": replay.held,
            "records": replay.records,
            "images": replay.images,
            "alerts": replay.alerts,
            "complete": complete,
            "sent": send,
            "where": _where(tracker, replay.info) if send else None,
        }


def _where(tracker: Tracker, info: RunInfo) -> str | None:
    try:
        return tracker.where(info)
    except Exception as error:  # noqa: BLE001 - a tracker may be anybody's
        print(f"note: where() failed: {describe(error)}", file=sys.stderr)
        return None


def _nodes(run: RunDir) -> dict[str, Mapping[str, Any]]:
    """Return the trackers that `run` was trained with, by the names that it has for them."""
    config = read_json(run.config).get("config")
    group = config.get("tracker") if isinstance(config, dict) else None
    found = group.items() if isinstance(group, dict) else ()
    return {name: node if isinstance(node, dict) else {} for name, node in found}


def _own(name: str, nodes: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any] | None]:
    """Return what the run calls the tracker `name`, and its settings, as far as they can be used; None if it has none.

    Raises:
        UserError: it is one of the user's own, whose class the run names; but what a run names is never imported.
    """
    if name in nodes and name not in known() and ":" not in name:
        raise UserError(f"{name} is a tracker of your own: --to package.module:Class sends to it")
    target = name.replace(":", ".")
    alias = next((own for own, node in nodes.items() if ":" in name and node.get("_target_") == target), name)
    if alias not in nodes:
        return alias, None
    accepted = parameters(name)
    return alias, {key: value for key, value in nodes[alias].items() if key in accepted and not _is_secret(value)}


def _is_secret(value: Any) -> bool:
    return isinstance(value, str) and (MASK in value or value.startswith("${"))


def _settings(typed: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return `wandb.mode=online` as {"wandb": {"mode": "online"}}."""
    settings: dict[str, dict[str, str]] = {}
    for each in typed:
        key, _, text = each.partition("=")
        tracker, dot, name = key.removeprefix("tracker.").rpartition(".")
        if not (tracker and dot and name):
            raise UserError(f"{each}: settings have the form TRACKER.KEY=VALUE, wandb.mode=online say")
        settings.setdefault(tracker, {})[name] = text
    return settings


def _value(tracker: str, key: str, text: str) -> Any:
    """Return what was typed as the constructor wants it: a name may be a number."""
    annotation = parameters(tracker).get(key, "")
    if "str" in annotation:
        return None if text == "null" and "None" in annotation else text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _key(name: str, own: Mapping[str, Any] | None, arguments: Mapping[str, Any]) -> str:
    """Return what the copy is called in the ledger: another place is another copy."""
    base = {"mode": "offline"} if name == "wandb" else {}
    usual = {**base, **(own or {})}
    places = {
        key: str(value).partition("?")[0]  # what may follow is a key
        for key, value in arguments.items()
        if key in ("project", "entity", "mode", "dir", "space_id", "server_url") and value != usual.get(key)
    }
    return " ".join([name, *(f"{key}={places[key]}" for key in sorted(places))])


def _say(said: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE))
        return
    counted = [(said["records"], "record"), (said["images"], "picture"), (said["alerts"], "alert")]
    what = ", ".join(f"{number} {name}{'s' if number != 1 else ''}" for number, name in counted if number)
    if said["complete"]:
        print(f"{said['run']}: {said['tracker']} has all {said['held']} records: nothing sent")
    elif not said["sent"]:
        print(f"{said['run']}: {what or 'its end'} would be sent to {said['tracker']}")
    else:
        print(f"{said['run']}: {what or 'its end'} sent to {said['tracker']}")
        if said["where"]:
            print(f"  look: {said['where']}")
