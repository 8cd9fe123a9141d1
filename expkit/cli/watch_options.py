"""The options of `expkit watch`."""

from __future__ import annotations

import argparse
from pathlib import Path

from expkit.cli.parser import Parser

__all__ = ["DEFAULT", "WEBHOOK", "parser"]

#: What is selected where nothing is said: the smart monitor's four detectors, and NaN, which they pass over.
DEFAULT = "moderate,nonfinite,stalled"
WEBHOOK = "EXPKIT_WATCH_WEBHOOK"

_EXAMPLES = """examples:
  expkit watch                                    the newest run in outputs, until Ctrl-C
  expkit watch RUN --loss-spike-threshold 0.2 --min-steps-between-saves 250
  expkit watch RUN detectors=standard,memory detectors.memory.threshold=80
  expkit watch RUN detectors=run                  the detectors that the run itself has
  expkit watch RUN --once                         read what is there, and end
  expkit watch RUN --wait                         its job has not begun yet
  expkit watch 'outputs/gpt_*' --dry-run detectors=loss_spike_robust      what would have happened
  expkit watch --status-file status/training_status.json --checkpoint-dir 'output/checkpoint-*'
  expkit watch --log-file train.log --pattern 'step (?P<step>\\d+) loss (?P<loss>\\S+)'
  nohup expkit watch RUN > /dev/null 2>&1 &       in the background; kill ends it

Events go to logs/watch_events.jsonl, lines to logs/smart_monitor_YYYYMMDD.log, snapshots to snapshots/, all in the run
directory. Exit codes: 0 ended as asked, 1 it could not watch, 2 wrong options. docs/watch.md says more."""


def parser(summary: str) -> Parser:
    """Return the parser, which has `summary` as its description."""
    made = Parser(
        prog="expkit watch",
        description=summary + ".",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "words",
        nargs="*",
        metavar="RUN | detectors...",
        help="a run directory, the id of one in outputs, a pattern in quotes, or latest (the default); "
        f"detectors=NAME,... (default: {DEFAULT}) and detectors.NAME.KEY=VALUE as in training",
    )
    made.add_argument("--base-dir", type=Path, metavar="DIR", help="a run directory, or the folder of runs (outputs)")
    made.add_argument("--config-dir", type=Path, metavar="DIR", help="detectors of your own: DIR/detectors/NAME.yaml")
    other = made.add_argument_group("another trainer", "instead of a run directory; docs/watch.md has examples")
    other.add_argument("--status-file", type=Path, metavar="FILE", help="a JSON object that is written again and again")
    other.add_argument("--log-file", type=Path, metavar="FILE", help="JSONL, or lines with names and numbers")
    other.add_argument("--wandb-run", metavar="RUN", help="a path (offline), or an id or name on the server")
    other.add_argument("--trackio-run", metavar="RUN", help="a name or id, or latest; with --project")
    other.add_argument("--fields", metavar="NAME=PATH,...", help="step=global_step,loss=metrics.loss,accuracy=eval.acc")
    other.add_argument("--pattern", metavar="REGEX", help="for lines: step (?P<step>\\d+) loss (?P<loss>\\S+)")
    other.add_argument("--project", help="of W&B or trackio")
    other.add_argument("--entity", help="of W&B")
    other.add_argument("--trackio-dir", type=Path, metavar="DIR", help="of trackio's databases")
    other.add_argument(
        "--checkpoint-dir", metavar="PATTERN", help="what to keep: files, checkpoint-N folders, or a folder of these"
    )
    made.add_argument(
        "--loss-spike-threshold",
        type=float,
        metavar="SHARE",
        help="0.3: alarm where the loss is 30%% above the mean (0.3)",
    )
    made.add_argument(
        "--accuracy-drop-threshold", type=float, metavar="POINTS", help="alarm so many points below the mean (10)"
    )
    made.add_argument(
        "--loss-window",
        type=int,
        metavar="N",
        help="losses that are kept, the mean being of the newer half: 20 hears less than 10 (10)",
    )
    made.add_argument(
        "--min-steps-between-saves", type=int, metavar="STEPS", help="between two snapshots of one kind (500)"
    )
    made.add_argument(
        *("--interval", "--poll-interval"),
        dest="poll_interval",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="between two looks where the file system does not tell of changes, and two lines in the log (10)",
    )
    made.add_argument("--webhook", metavar="URL", help=f"gets a JSON object for each alert; better in ${WEBHOOK}")
    made.add_argument("--wait", action="store_true", help="first until the run is there: its job may be in a queue")
    made.add_argument("--once", action="store_true", help="read what is there, and end")
    made.add_argument("--dry-run", action="store_true", help="only say what would have happened; any number of runs")
    made.add_argument("--json", action="store_true", help="with --dry-run: one JSON object instead of a table")
    return made
