"""`expkit watch RUN`: the smart monitor, beside a run that was started without one, or by another trainer."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from expkit.cli.show import find
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json
from expkit.lock import file_lock
from expkit.snapshots import Snapshots
from expkit.watch.acting import Acting
from expkit.watch.dry_run import dry_run, table
from expkit.watch.running import logging_to, stopping, summary, watch
from expkit.watch.selecting import make_detectors, settings_of
from expkit.watch.sources import Source
from expkit.watch.sources.journal import JournalSource
from expkit.watch.watcher import Watcher
from expkit.webhook import Webhook

__all__ = ["WatchCommand"]

log = logging.getLogger("expkit")

#: What is selected where nothing is said: the smart monitor's four detectors, and NaN, which they pass over.
DEFAULT = "moderate,nonfinite,stalled"
WEBHOOK = "EXPKIT_WATCH_WEBHOOK"

_PAUSES = (1.0, 4.0, 15.0, 60.0, 300.0)
_EXAMPLES = """examples:
  expkit watch                                    the newest run in outputs, until Ctrl-C
  expkit watch RUN --loss-spike-threshold 0.2 --min-steps-between-saves 250
  expkit watch RUN detectors=standard,memory detectors.memory.threshold=80
  expkit watch RUN detectors=run                  the detectors that the run itself has
  expkit watch RUN --once                         read what is there, and end
  expkit watch 'outputs/gpt_*' --dry-run detectors=loss_spike_robust      what would have happened
  nohup expkit watch RUN > /dev/null 2>&1 &       in the background; kill ends it

Events go to logs/watch_events.jsonl, lines to logs/smart_monitor_YYYYMMDD.log, snapshots to snapshots/, all in the run
directory. Exit codes: 0 ended as asked, 1 it could not watch, 2 wrong options. docs/watch.md says more."""


class WatchCommand:
    """Watches one run, or says what would have happened in many."""

    summary = "the smart monitor beside a run: detectors, alerts and snapshots, whoever trains it"

    def run(self, arguments: Sequence[str]) -> int:
        """Watch until Ctrl-C or SIGTERM, after which the exit code is 0."""
        options = _parser(self.summary).parse_intermixed_args(list(arguments))
        words = [word for word in options.words if word.lstrip("+").startswith("detectors") and "=" in word]
        names = [word for word in options.words if word not in words]
        if options.poll_interval <= 0:
            raise UserError(f"--poll-interval {options.poll_interval:g}: it must be more than 0 seconds")
        if options.dry_run:
            return _dry_run(_runs(names, options.base_dir), words, options)
        if options.json:
            raise UserError("--json belongs to --dry-run; otherwise events are in logs/watch_events.jsonl")
        return _watch(names, words, options)


def _parser(summary: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="expkit watch",
        description=summary + ".",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RUN | detectors...",
        help="a run directory, the id of one in outputs, a pattern in quotes, or latest (the default); "
        f"detectors=NAME,... (default: {DEFAULT}) and detectors.NAME.KEY=VALUE as in training",
    )
    parser.add_argument("--base-dir", type=Path, metavar="DIR", help="a run directory, or the folder of runs (outputs)")
    parser.add_argument(
        "--loss-spike-threshold",
        type=float,
        metavar="SHARE",
        help="0.3: alarm where the loss is 30%% above the mean (0.3)",
    )
    parser.add_argument(
        "--accuracy-drop-threshold", type=float, metavar="POINTS", help="alarm so many points below the mean (10)"
    )
    parser.add_argument("--loss-window", type=int, metavar="N", help="losses that are kept for the mean (10)")
    parser.add_argument(
        "--min-steps-between-saves", type=int, metavar="STEPS", help="between two snapshots of one kind (500)"
    )
    parser.add_argument(
        "--poll-interval",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="between two looks where the file system does not tell of changes, and two lines in the log (10)",
    )
    parser.add_argument("--webhook", metavar="URL", help=f"gets a JSON object for each alert; better in ${WEBHOOK}")
    parser.add_argument("--once", action="store_true", help="read what is there, and end")
    parser.add_argument("--dry-run", action="store_true", help="only say what would have happened; any number of runs")
    parser.add_argument("--json", action="store_true", help="with --dry-run: one JSON object instead of a table")
    return parser


def _watch(names: Sequence[str], words: Sequence[str], options: argparse.Namespace) -> int:
    runs = _runs(names, options.base_dir)
    if len(runs) > 1:
        raise UserError(f"{len(runs)} runs are named, and one is watched at a time: name one, or look with --dry-run")
    run = runs[0]
    config = _config(run)
    nodes = settings_of(words, DEFAULT, config)
    _apply(nodes, options)
    make_detectors(nodes)  # says what cannot be
    source: Source = JournalSource(run)
    address = options.webhook or os.environ.get(WEBHOOK)
    webhook = Webhook(address, pauses=_PAUSES) if address else None
    stop = threading.Event()
    with (
        file_lock(_folder(run.logs) / ".watch.lock", f"{run.root} is watched already"),
        logging_to(run.logs),
        stopping(stop) as signals,
    ):
        own = settings_of(["detectors=run"], "", config) if config is not None and "detectors" in config else {}
        left = [name for name in nodes if own.get(name) == nodes[name]]
        acting = Acting(run, _snapshots(run, options), webhook, left)
        settings = {"detectors": nodes, "min_steps_between_saves": options.min_steps_between_saves}
        watcher = Watcher(source, lambda: make_detectors(nodes), _plain(settings), run.logs, acting, stop)
        _say_start(run, nodes, left)
        try:
            watch(watcher, run.status, options.poll_interval, stop, options.once)
        except OSError as error:
            raise UserError(f"{run.root} cannot be watched: {error}") from error
        finally:
            acting.close()
            watcher.save(force=True)
        log.info("%s", summary(watcher, f"ended by {signals[0]}" if signals else "read all,"))
    return 0


def _dry_run(runs: Sequence[RunDir], words: Sequence[str], options: argparse.Namespace) -> int:
    results = []
    names: dict[str, None] = {}
    for run in runs:
        nodes = settings_of(words, DEFAULT, _config(run))
        _apply(nodes, options)
        names |= dict.fromkeys(nodes)
        results.append(dry_run(JournalSource(run), make_detectors(nodes), options.min_steps_between_saves or 500))
    if options.json:
        counts = {name: sum(each["detector"] == name for run in results for each in run.events) for name in names}
        said = {"runs": [vars(each) for each in results], "totals": counts}
        sys.stdout.buffer.write(orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    else:
        print("\n".join(table(results, list(names), lambda run: Path(run).name)))
    return 0


def _runs(names: Sequence[str], base: Path | None) -> list[RunDir]:
    """Return the runs that are named by path, id or pattern; of none the newest.

    Raises:
        UserError: there is none.
    """
    if base is not None and not base.is_dir():
        raise UserError(f"--base-dir {base}: there is no such folder")
    outputs = base or Path("outputs")
    if base is not None and not names and (RunDir(base).exists() or RunDir(base).metrics.exists()):
        return [RunDir(base)]
    found: dict[Path, RunDir] = {}
    wanted: list[str | None] = [*names] or [None]
    for name in wanted:
        if name is not None and any(sign in name for sign in "*?[") and not Path(name).exists():
            matches = [RunDir(path) for place in (Path(), outputs) for path in sorted(place.glob(name.lstrip("/")))]
            runs = [run for run in matches if run.exists() or run.metrics.exists()]
            if not runs:
                raise UserError(f"{name}: no run matches this, in {Path.cwd()} or {outputs.absolute()}")
        elif name is not None and RunDir(name).metrics.exists():  # of somebody's own loop, without a config.json
            runs = [RunDir(name)]
        else:
            runs = [find(name, outputs)]
        found |= {run.root.resolve(): run for run in runs}
    return list(found.values())


def _config(run: RunDir) -> Mapping[str, Any] | None:
    """Return the configuration that a run was trained with, if it tells."""
    try:
        config = read_json(run.config).get("config")
    except UserError:
        return None
    return config if isinstance(config, dict) else None


def _apply(nodes: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Set what the options of the guide stand for."""
    for option, name, key in (
        ("loss_spike_threshold", "loss_spike", "threshold"),
        ("accuracy_drop_threshold", "accuracy_drop", "threshold"),
        ("loss_window", "loss_spike", "window"),
    ):
        value = getattr(options, option)
        if value is not None and name not in nodes:
            raise UserError(f"--{option.replace('_', '-')} is for {name}, which is not selected: add it to detectors=")
        if value is not None:
            nodes[name][key] = value
    steps = options.min_steps_between_saves
    if steps is not None:
        for name in ("loss_spike", "accuracy_drop", "best_model", "divergence"):
            if name in nodes:
                nodes[name]["cooldown"] = steps


def _snapshots(run: RunDir, options: argparse.Namespace) -> Callable[[], Snapshots]:
    steps = options.min_steps_between_saves
    return lambda: Snapshots(run, 500 if steps is None else steps)


def _say_start(run: RunDir, nodes: Mapping[str, Mapping[str, Any]], left: Sequence[str]) -> None:
    log.info("watching %s with %s", run.root, ", ".join(nodes) or "no detector")
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
