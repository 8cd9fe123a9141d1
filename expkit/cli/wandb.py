"""`expkit wandb {keys,gpu,compare,runs}`: asks W&B about runs, on its server or in the files on this machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from expkit.cli.finding import find as find_run_directory
from expkit.cli.parser import Parser
from expkit.cli.wandb_output import Comparison, Report, compare_report, gpu_report, keys_report, runs_report
from expkit.errors import UserError
from expkit.experiment import is_id
from expkit.files import is_there
from expkit.wandb_data.gpu import history_keys, read_gpus
from expkit.wandb_data.offline import OfflineSource
from expkit.wandb_data.source import SYSTEM, QueriedRun, Source

__all__ = ["WandbCommand"]

_EXAMPLES = """examples:
  expkit wandb keys outputs/RUN                       a run on this machine: no network, no account
  expkit wandb gpu latest --system                    the newest run in outputs: power and temperature too
  expkit wandb gpu --project P                        the newest run of a project on the server
  expkit wandb gpu --entity E --project P --run-name N --json
  expkit wandb compare --project P BASELINE OPTIMIZED
  expkit wandb compare outputs/A outputs/B --csv
  expkit wandb runs --project P --limit 50            newest first"""


_SHOWN = 12  # names of metrics in an error message


class WandbCommand:
    """Reads from W&B: never writes to it."""

    summary = "what W&B knows of runs, on its server or in files here: metric names, GPU use, comparisons"

    def run(self, arguments: Sequence[str]) -> int:
        """Print what was asked for. The exit code is 1 if a run of a comparison is missing."""
        options = self.parser().parse_args(arguments)
        ask: Callable[[argparse.Namespace], tuple[Report, int]] = options.ask
        report, code = ask(options)
        for note in report.notes:
            print(f"note: {note}", file=sys.stderr)
        if options.json:
            sys.stdout.buffer.write(report.json())
        else:
            print(report.csv() if options.csv else report.text(), end="")
        return code

    def parser(self) -> Parser:
        """Return the command's parser."""
        return _parser()


def _parser() -> Parser:
    parser = Parser(
        prog="expkit wandb",
        description=WandbCommand.summary + ".",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    queries = parser.add_subparsers(required=True, metavar="{keys,gpu,compare,runs}")
    for name, ask, text in (
        ("keys", _keys, "which metrics a run has"),
        ("gpu", _gpu, "memory and use of each GPU: current, average, maximum"),
        ("compare", _compare, "GPU memory and use of several runs side by side"),
        ("runs", _runs, "the runs of a project or a folder, newest first"),
    ):
        query = queries.add_parser(name, help=text, description=text + ".")
        query.set_defaults(ask=ask)
        if name == "compare":
            query.add_argument("names", nargs="+", metavar="RUN", help="a name or id in the project, or a path")
        else:
            place = "a run directory, a wandb folder, an offline run in it, a .wandb file, the id of a run in outputs"
            query.add_argument("path", nargs="?", help=f"{place}, or latest; without it, the server is asked")
        query.add_argument("--entity", help="user or team; default: WANDB_ENTITY, or the account's own")
        query.add_argument("--project", help="project on the server; default: WANDB_PROJECT")
        if name in ("keys", "gpu"):
            query.add_argument("--run-name", help="display name, or run_name in the configuration; default: newest run")
            query.add_argument("--run-id", help="id of the run")
        if name in ("gpu", "compare"):
            query.add_argument(
                "--system", action="store_true", help="what W&B sampled by itself, not what the training logged"
            )
        if name == "runs":
            query.add_argument("--limit", type=_positive, default=20, help="how many (%(default)s)")
        query.add_argument(
            "--timeout", type=_positive, default=10, metavar="SECONDS", help="for each of 3 tries (%(default)s)"
        )
        form = query.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="one JSON object instead of text")
        form.add_argument("--csv", action="store_true", help="comma-separated values instead of text")
    return parser


def _keys(options: argparse.Namespace) -> tuple[Report, int]:
    return keys_report(_one(options)), 0


def _gpu(options: argparse.Namespace) -> tuple[Report, int]:
    run = _one(options)
    figures = read_gpus(run, options.system)
    if not figures:
        raise UserError(_no_gpu(run, options.system))
    return gpu_report(run, figures, options.system), 0


def _compare(options: argparse.Namespace) -> tuple[Report, int]:
    compared, server = [], _Server(options)
    missed: dict[str, list[str]] = {}
    for name in options.names:
        try:
            run = _compared(options, server, name)
            compared.append(Comparison(name, run, read_gpus(run, options.system, single=False)))
        except UserError as error:
            if len(options.names) == 1:
                raise UserError(f"{name}: {error}") from None
            missed.setdefault(str(error), []).append(name)
            compared.append(Comparison(name))
    for said, names in missed.items():
        print(f"error: {', '.join(names)}: {said}", file=sys.stderr)
    return compare_report(compared, options.system), int(any(each.run is None for each in compared))


def _runs(options: argparse.Namespace) -> tuple[Report, int]:
    return runs_report(_source(options).runs(options.limit)), 0


def _one(options: argparse.Namespace) -> QueriedRun:
    return _source(options).find(options.run_name, options.run_id)


def _compared(options: argparse.Namespace, server: _Server, name: str) -> QueriedRun:
    local = _local(name)
    if local:
        return local.find()
    if not (options.project or os.environ.get("WANDB_PROJECT")):
        raise UserError("neither a path nor the id of a run in outputs; for a run on the server say --project")
    return _by_name_or_id(server(), name)


def _by_name_or_id(source: Source, name: str) -> QueriedRun:
    try:
        return source.find(name=name)
    except UserError as error:
        try:
            return source.find(run_id=name)
        except UserError:
            raise error from None


def _source(options: argparse.Namespace) -> Source:
    """Return where to look.

    Raises:
        UserError: there is no such place, or the server does not answer.
    """
    if options.path is None:
        return _Server(options)()
    if options.project or options.entity:
        raise UserError(
            f"{options.path} is on this machine, --project and --entity are on the server: give one of them"
        )
    local = _local(options.path)
    if local is None:
        raise UserError(
            f"{options.path} is not there: name a path; for a run on the server say --project and --run-name"
        )
    return local


def _local(name: str) -> Source | None:
    """Return the place on this machine that `name` means: a path, the id of a run in outputs, or latest."""
    outputs = Path("outputs")
    if is_there(name):
        return OfflineSource(name)
    if is_id(name) and (outputs / name).is_dir():
        return OfflineSource(outputs / name)
    return OfflineSource(find_run_directory(name, outputs).root) if name == "latest" else None


class _Server:
    """The server that the options name, asked once, also if it does not answer."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._source: Source | None = None
        self._trouble: UserError | None = None

    def __call__(self) -> Source:
        from expkit.wandb_data.online import OnlineSource

        if self._trouble is not None:
            raise self._trouble
        if self._source is None:
            try:
                self._source = OnlineSource(self._options.project, self._options.entity, self._options.timeout)
            except UserError as error:
                self._trouble = error
                raise
        return self._source


def _no_gpu(run: QueriedRun, system: bool) -> str:
    """Return what was found instead of GPU metrics, and what to do."""
    names = [SYSTEM + name for name in run.system_names()] if system else run.names()
    asked = [name for name in names if not name.startswith("_")]
    shown = ", ".join(asked[:_SHOWN]) + (f" and {len(asked) - _SHOWN} more" if len(asked) > _SHOWN else "")
    where, instead = "system stream" if system else "training history", ""
    if system and history_keys(run):
        instead = "; the training history has some: leave out --system"
    elif not system and any(name.startswith("gpu.") for name in run.system_names()):
        instead = "; the system stream has some: --system"
    return f"no GPU metrics in the {where} of {run.name} ({run.id}); it has {shown or 'nothing'}{instead}"


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)
