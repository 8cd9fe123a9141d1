"""`expkit watch RUN`: the smart monitor, beside a run that was started without one, or by another trainer."""

from __future__ import annotations

import argparse
import contextlib
import glob
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from expkit.cli.finding import find_runs
from expkit.cli.parser import Parser
from expkit.cli.watch_options import DEFAULT, WEBHOOK, parser
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.lock import file_lock
from expkit.snapshots import Snapshots
from expkit.watch.acting import Acting
from expkit.watch.dry_run import dry_run, remarks, table
from expkit.watch.running import logging_to, stopping, summary, watch
from expkit.watch.selecting import make_detectors, option_names, own_targets, settings_of
from expkit.watch.sources.journal import JournalSource
from expkit.watch.targets import SOURCES, Target, other_target, run_target
from expkit.watch.unseen import HOW
from expkit.watch.waiting import waits_for
from expkit.watch.watcher import Watcher
from expkit.webhook import Webhook

__all__ = ["WatchCommand"]

log = logging.getLogger("expkit")

_PAUSES = (1.0, 4.0, 15.0, 60.0, 300.0)
_WAITING = 10_000  # alerts, of ten minutes that are read at once
_LONGEST = 86400.0  # seconds
_LOOK = 5.0  # seconds between two looks for a run that is not there yet, at most


class WatchCommand:
    """Watches one run, or says what would have happened in many."""

    summary = "the smart monitor beside a run: detectors, alerts and snapshots, whoever trains it"

    def run(self, arguments: Sequence[str]) -> int:
        """Watch until Ctrl-C or SIGTERM, after which the exit code is 0."""
        options = self.parser().parse_intermixed_args(list(arguments))
        words = [word for word in options.words if word.lstrip("+").startswith("detectors") and "=" in word]
        names = [word for word in options.words if word not in words]
        if not 0 < options.poll_interval <= _LONGEST:
            raise UserError(f"--interval {options.poll_interval:g}: it must be more than 0 seconds, at most a day")
        if options.config_dir is not None and not options.config_dir.is_dir():
            raise UserError(
                f"--config-dir {options.config_dir}: there is no such folder; it is the one that holds detectors/"
            )
        if options.config_dir is not None and not {"", str(Path.cwd())} & set(sys.path):
            sys.path.append(str(Path.cwd()))  # the user's own package, where `python -m train` finds it too
        if options.wait and (options.dry_run or options.once or _sources(options)):
            raise UserError("--wait is for a run that is to be watched as it goes on: expkit watch RUN --wait")
        if options.dry_run:
            return _dry_run(names, words, options)
        if options.json:
            raise UserError("--json belongs to --dry-run; otherwise events are in logs/watch_events.jsonl")
        return _watch(names, words, options)

    def parser(self) -> Parser:
        """Return the command's parser."""
        return parser(self.summary)


def _watch(names: Sequence[str], words: Sequence[str], options: argparse.Namespace) -> int:
    if options.wait and not _is_there(names, options):
        return 0
    targets = _targets(names, words, options)
    if len(targets) > 1:
        raise UserError(f"{len(targets)} runs are named, and one is watched at a time: name one, or use --dry-run")
    target = targets[0]
    run, config = target.run, target.config
    nodes = _nodes(words, config, options)
    trusted = own_targets(options.config_dir)
    make_detectors(nodes, trusted)  # says what cannot be
    address = options.webhook or os.environ.get(WEBHOOK)
    webhook = Webhook(address, pauses=_PAUSES, waiting=_WAITING) if address else None
    stop = threading.Event()
    with (
        file_lock(_folder(run.logs) / ".watch.lock", f"{run.root} is watched already"),
        logging_to(run.logs),
        stopping(stop) as signals,
    ):
        own = settings_of(["detectors=run"], "", config) if config is not None and "detectors" in config else {}
        left = [name for name in nodes if own.get(name) == nodes[name]]
        acting = Acting(run, _snapshots(target, options), target.status, webhook, left)
        settings = {
            "source": "" if isinstance(target.source, JournalSource) else target.source.name,
            "detectors": nodes,
            "fields": options.fields,
            "saves": _steps(options),
        }
        watcher = Watcher(
            target.source, lambda: make_detectors(nodes, trusted), _plain(settings), run.logs, acting, stop
        )
        _say_start(target, nodes, left)
        kept = options.checkpoint_dir
        if kept is not None and not glob.glob(kept, recursive=True):  # noqa: PTH207 - an absolute one, too
            log.info("--checkpoint-dir %s: there is no such thing yet, and snapshots have no model until then", kept)
        try:
            watch(watcher, run.status, options.poll_interval, stop, options.once)
        except OSError as error:
            raise UserError(f"{target.source.name} cannot be watched: {error}") from error
        finally:
            acting.close()
            watcher.save(force=True)
            target.source.close()
        for note in target.source.notes():
            log.info("%s", note)
        log.info("%s", summary(watcher, f"ended by {signals[0]}" if signals else "read all,"))
    return 0


def _dry_run(names: Sequence[str], words: Sequence[str], options: argparse.Namespace) -> int:
    results = []
    selected: dict[str, None] = {}
    trusted = own_targets(options.config_dir)
    for target in _targets(names, words, options):
        nodes = _nodes(words, target.config, options)
        selected |= dict.fromkeys(nodes)
        try:
            results.append(dry_run(target.source, make_detectors(nodes, trusted), _steps(options)))
        except OSError as error:
            raise UserError(f"{target.source.name} cannot be read: {error}") from error
        finally:
            target.source.close()
        for note in target.source.notes():
            print(f"note: {note}", file=sys.stderr)
    if not any(each.records for each in results):
        raise UserError("; ".join(remarks(results)))
    how = HOW if _sources(options) else ""
    for text in remarks(results):
        print(f"note: {text}{how}", file=sys.stderr)
    if options.json:
        counts = {name: sum(each["detector"] == name for run in results for each in run.events) for name in selected}
        said = {"runs": [asdict(each) for each in results], "totals": counts}
        sys.stdout.buffer.write(orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    else:
        print("\n".join(table(results, list(selected))))
    return 0


def _targets(names: Sequence[str], words: Sequence[str], options: argparse.Namespace) -> list[Target]:
    """Return what is to be watched.

    Raises:
        UserError: there is no such run, or file, or the options do not go together.
    """
    if options.base_dir is not None and not options.base_dir.is_dir():
        raise UserError(f"--base-dir {options.base_dir}: there is no such folder")
    metrics = [word.partition("=")[2] for word in words if word.partition("=")[0].endswith(".metric")]
    other = other_target(options, metrics, names)
    if other is None:
        return [run_target(run, options.checkpoint_dir) for run in _runs(names, options)]
    if names:
        raise UserError(f"{names[0]}: name a run or another trainer's file, not both")
    for option, file in (("--status-file", options.status_file), ("--log-file", options.log_file)):
        if file is not None and (options.once or options.dry_run) and not file.exists():
            raise UserError(f"{option} {file}: there is no such file")
    return [other]


def _runs(names: Sequence[str], options: argparse.Namespace) -> list[RunDir]:
    """Return the runs that are named by path, id or pattern; of none the newest.

    Raises:
        UserError: there is none.
    """
    base: Path | None = options.base_dir
    outputs = base or Path("outputs")
    if base is not None and not names and (RunDir(base).exists() or RunDir(base).metrics.exists()):
        return [RunDir(base)]
    _check_names(names, options)
    return find_runs(names, outputs)


def _is_there(names: Sequence[str], options: argparse.Namespace) -> bool:
    """Wait until there is what `names` say; return False if it is told to end before."""
    _check_names(names, options)

    def found() -> bool:
        with contextlib.suppress(UserError):
            return bool(_runs(names, options))
        return False

    stop = threading.Event()
    with stopping(stop) as signals:
        if not found():
            print(f"waiting for {', '.join(names) or 'a run'}, in {options.base_dir or 'outputs'}", flush=True)
        there = waits_for(found, min(options.poll_interval, _LOOK), stop)
    if not there:
        print(f"ended by {signals[0]} before it was there")
    return there


def _sources(options: argparse.Namespace) -> list[str]:
    """Return the options that name what another trainer writes."""
    return [each for each in SOURCES if getattr(options, each) is not None]


def _check_names(names: Sequence[str], options: argparse.Namespace) -> None:
    for name in names:
        if not Path(name).exists():
            if name in option_names(options.config_dir):
                raise UserError(f"{name} is no run: did you mean detectors={name}?")
            if "=" in name:
                raise UserError(
                    f"{name}: there is no such setting: write detectors=NAME,... or detectors.NAME.KEY=VALUE"
                )


def _nodes(
    words: Sequence[str], config: Mapping[str, Any] | None, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    nodes = settings_of(words, DEFAULT, config, options.config_dir)
    _apply(nodes, options, {word.partition("=")[0] for word in words})
    return nodes


def _apply(nodes: dict[str, dict[str, Any]], options: argparse.Namespace, typed: Set[str]) -> None:
    """Set what the options of the guide stand for, where that is not `typed` itself."""
    for option, name, key in (
        ("loss_spike_threshold", "loss_spike", "threshold"),
        ("accuracy_drop_threshold", "accuracy_drop", "threshold"),
        ("loss_window", "loss_spike", "window"),
    ):
        value = getattr(options, option)
        if value is not None and name not in nodes:
            raise UserError(f"--{option.replace('_', '-')} is for {name}, which is not selected: add it to detectors=")
        if value is not None and f"detectors.{name}.{key}" not in typed:
            nodes[name][key] = value
    if options.loss_window is not None and "detectors.loss_spike.recent" not in typed:
        nodes["loss_spike"]["recent"] = max(1, options.loss_window // 2)  # the guide's 5 of 10
    steps = options.min_steps_between_saves
    if steps is not None:
        for name in ("loss_spike", "accuracy_drop", "best_model", "divergence"):
            if name in nodes and f"detectors.{name}.cooldown" not in typed:
                nodes[name]["cooldown"] = steps


def _steps(options: argparse.Namespace) -> int:
    return 500 if options.min_steps_between_saves is None else int(options.min_steps_between_saves)


def _snapshots(target: Target, options: argparse.Namespace) -> Callable[[], Snapshots]:
    return lambda: Snapshots(target.run, _steps(options), keep=target.keep)


def _say_start(target: Target, nodes: Mapping[str, Mapping[str, Any]], left: Sequence[str]) -> None:
    log.info("watching %s with %s", target.source.name, ", ".join(nodes) or "no detector")
    if target.config is None and not isinstance(target.source, JournalSource):
        log.info("what is noticed goes to %s", target.run.root.absolute())
    if left:
        log.info("%s: the run has the same and acts itself; here they are only written down", ", ".join(left))
    for name, node in nodes.items():
        beyond = [word for word in node.get("respond") or () if word not in ("alert", "snapshot")]
        if beyond and name not in left:
            log.warning("detectors.%s.respond: %s is what only the run itself can do", name, ", ".join(beyond))


def _folder(path: Path) -> Path:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be made: {error.strerror}") from None
    return path


def _plain(value: Any) -> Any:
    """Return a value as it is after it was JSON: steps of a threshold become text."""
    return orjson.loads(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))
