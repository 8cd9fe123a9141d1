"""`expkit svd RUN`: follows the analyses of adaptive layers, and says how far each is from a switch."""

from __future__ import annotations

import argparse
import glob
import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from expkit.cli.finding import find_any
from expkit.cli.parser import Parser
from expkit.errors import UserError
from expkit.experiment import RunDir, newest_run
from expkit.files import is_there
from expkit.svd.metrics import KeyPattern
from expkit.svd.monitor import SVDMonitor
from expkit.svd.sources import JournalSource, LogSource, Selected, Source, WandbSource, layer_groups
from expkit.svd.watching import Output, watch
from expkit.switch_thresholds import SwitchThresholds
from expkit.wandb_data.following import FollowedFiles, FollowedOnline

__all__ = ["SVDCommand"]

_EXAMPLES = r"""examples:
  expkit svd                                    the newest run in outputs, until it ends or Ctrl-C
  expkit svd RUN --once                         how it stands now
  expkit svd RUN --layers 'block0.*' --calibrated
  expkit svd --wandb-run ID --project P --interval 30
  expkit svd RUN/wandb/offline-run-...          what W&B has written on this machine
  expkit svd --log-file training.log --follow
  expkit svd --log-file x.log --key-pattern 'adaptive/(?P<layer>.+)/(?P<metric>\w+)'

Ctrl-C prints the summary. Alerts that last are said once. docs/svd-monitor.md says how to read them."""

#: Where W&B's files are in what people name: W&B's own folders, or what has one.
_WANDB_FILES = ("run-*.wandb", "*run-*/run-*.wandb", "wandb/*run-*/run-*.wandb")

#: Seconds: more than that is a slip of the hand, and more than clocks take.
_LONGEST = 86400.0


class SVDCommand:
    """Monitors the analyses of diagnostic `svd`, or of another trainer. It only reads."""

    summary = "adaptive layers of a run that goes on: alerts, trends and distances to a switch"

    def run(self, arguments: Sequence[str]) -> int:
        """Follow the run and print what is to be said. The exit code is 1 if there was nothing in it."""
        options = self.parser().parse_args(arguments)
        layers = Selected(options.layers)
        typed = _typed(options)
        source = _source(options, KeyPattern(options.key_pattern), layers)
        monitor = SVDMonitor(_thresholds(source, typed), options.calibrated)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal without emoji is no reason to fail
        return watch(source, monitor, layers, Output(options.json), options.refresh_interval, options.once)

    def parser(self) -> Parser:
        """Return the command's parser."""
        return _parser()


def _parser() -> Parser:
    usual = SwitchThresholds()
    parser = Parser(
        prog="expkit svd",
        description=SVDCommand.summary + ".",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        nargs="*",
        help="a run directory, the id of a run in outputs, a pattern of them (the newest is taken), latest (the "
        "default), or W&B's files of a run",
    )
    parser.add_argument("--wandb-run", metavar="ID", help="a run on the W&B server, by its id or name")
    parser.add_argument("--project", help="its project; default: WANDB_PROJECT")
    parser.add_argument("--entity", help="its user or team; default: WANDB_ENTITY, or the account's own")
    parser.add_argument("--log-file", metavar="FILE", type=Path, help="a text or JSONL file with the metrics in it")
    parser.add_argument("--follow", action="store_true", help="with --log-file: go on as it grows")
    parser.add_argument(
        *("--interval", "--refresh-interval"),
        dest="refresh_interval",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="between two looks (10)",
    )
    for name, text in (
        ("warn_margin", "warn so close to a threshold, or within half of it if that is less"),
        ("principal_danger", "above it: clobbering"),
        ("minor_safe", "above it: safe gradients"),
        ("angle_stable", "radians; below it: stable subspace"),
        ("recon_safe", "below it: safe reconstruction"),
    ):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=float, metavar="X", help=f"{text} ({getattr(usual, name)})")
    parser.add_argument(
        "--calibrated", action="store_true", help="thresholds on the alignments relative to what chance gives"
    )
    parser.add_argument("--layers", metavar="PATTERNS", default="*", help="as in a shell: 'block0.*,*.c_fc'")
    parser.add_argument(
        "--key-pattern", metavar="REGEX", help="other names of metrics: matches all of a name; groups layer and metric"
    )
    parser.add_argument("--once", action="store_true", help="print the summary of what is there, and end")
    parser.add_argument("--json", action="store_true", help="a JSON object a line: each new alert, then the summary")
    parser.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="SECONDS", help="for each answer of the W&B server (10)"
    )
    return parser


def _source(options: argparse.Namespace, pattern: KeyPattern, layers: Selected) -> Source:
    """Return what the options name.

    Raises:
        UserError: they name nothing, or more than one thing.
    """
    given = [name for name in ("run", "wandb_run", "log_file") if getattr(options, name)]
    if len(given) > 1:
        raise UserError("name one of RUN, --wandb-run and --log-file")
    if options.follow and not options.log_file:
        raise UserError("--follow belongs to --log-file; a run is always followed (--once: not)")
    if (options.project or options.entity) and not options.wandb_run:
        raise UserError("--project and --entity belong to --wandb-run ID (which runs: expkit wandb runs --project P)")
    if options.log_file:
        return LogSource(options.log_file, pattern, options.follow and not options.once)
    if options.wandb_run and not is_there(options.wandb_run):
        asked = layer_groups(pattern, layers)
        timeout = math.ceil(options.timeout)
        return WandbSource(FollowedOnline(options.wandb_run, options.project, options.entity, asked, timeout), pattern)
    if options.wandb_run:
        return WandbSource(FollowedFiles(Path(options.wandb_run)), pattern)
    return _local(options.run, pattern)


def _local(names: Sequence[str], pattern: KeyPattern) -> Source:
    """Return what `names` mean on this machine; of several, or a pattern, the newest run."""
    found = [
        path
        for name in names
        for path in ([name] if is_there(name) else sorted(glob.glob(name)) or [name])  # noqa: PTH207
    ]
    runs = [RunDir(path) for path in found if RunDir(path).exists()]
    if len(found) > 1 and runs:
        newest = max(runs, key=_active)
        print(f"note: {len(runs)} runs; this is the newest: {newest.root}", file=sys.stderr)
        return JournalSource(newest, pattern)
    name = found[0] if found else None
    if name is not None and not runs and is_there(name):
        path = Path(name)
        if path.is_file() and path.suffix != ".wandb":
            raise UserError(f"{name} is a file: --log-file {name} reads it")
        if path.is_file() or any(next(path.glob(each), None) for each in _WANDB_FILES):
            return WandbSource(FollowedFiles(path), pattern)
        newest_inside = newest_run(path)
        if newest_inside is not None:
            print(f"note: the newest run in it: {newest_inside.root}", file=sys.stderr)
            return JournalSource(newest_inside, pattern)
    return JournalSource(find_any(name, Path("outputs")), pattern)


def _active(run: RunDir) -> float:
    return (run.status if run.status.exists() else run.config).stat().st_mtime


def _typed(options: argparse.Namespace) -> dict[str, float]:
    """Return the thresholds that were typed, by name.

    Raises:
        UserError: one is not above 0, or higher than the metric can be.
    """
    values = {field.name: getattr(options, field.name) for field in fields(SwitchThresholds)}
    typed = {name: value for name, value in values.items() if value is not None}
    for name, value in typed.items():
        highest = math.pi / 2 if name == "angle_stable" else 1.0
        if not (0 < value <= highest or (name == "warn_margin" and value == 0)):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {value:g}: it must be above 0, and at most {highest:.4g}")
    return typed


def _thresholds(source: Source, typed: Mapping[str, float]) -> SwitchThresholds:
    """Return the thresholds: those typed, then those that a run has itself, then the usual ones."""
    usual = SwitchThresholds()
    own = source.thresholds if isinstance(source, JournalSource) else {}
    other = {name: value for name, value in own.items() if name not in typed and value != getattr(usual, name)}
    if other:
        said = ", ".join(f"{name} {value:g}" for name, value in other.items())
        print(f"note: thresholds as in the run's own detectors.svd_switch: {said}", file=sys.stderr)
    return replace(usual, **{**other, **typed})


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0, at most a day")
    return value
