"""`expkit runs [OUTPUTS]`: the runs of a folder, filtered and sorted."""

from __future__ import annotations

import argparse
import contextlib
import gc
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from expkit.cli.parser import Parser
from expkit.errors import UserError
from expkit.files import is_there
from expkit.lenient_json import dump_json
from expkit.listing.columns import BUILT_IN, check_names, main_metric, shown, value_of
from expkit.listing.entry import RunEntry
from expkit.listing.filters import Filter, parse_filter
from expkit.listing.scan import scan
from expkit.nested import MISSING
from expkit.standing import STATES
from expkit.table import Table, json_value

__all__ = ["RunsCommand"]

_SHOWN = 30  # runs, as text
_LOOKED_AT = 200  # runs, for the metric that tells most
_COLUMNS = ("run", "state", "step", "active", "duration")
_LEAST_NAME = 20  # characters of a run's name that are shown, its end

_EXAMPLES = """examples:
  expkit runs                                          of ./outputs, the one that was active last on top
  expkit runs --state crashed,failed,preempted         what must be gone on with
  expkit runs --filter task=gpt --sort best_val_loss --limit 5
  expkit runs --filter 'optimizer.lr>0.01' --filter 'val_loss<2'
  expkit runs --filter 'run~baseline' --filter 'seed=1,2,3' --filter 'duration>2h' --filter 'started<3d'
  expkit runs --columns run,state,optimizer.lr,seed,best_val_loss --sort -optimizer.lr
  expkit runs --columns +optimizer.lr,host             these behind the usual ones
  expkit runs /shared/outputs --limit 0 --format csv   all, for a spreadsheet
  expkit runs --json                                   all, for programs

A condition is NAME=VALUE (or VALUE,VALUE), NAME!=VALUE, NAME<NUMBER, <=, >, >=, NAME~TEXT (contains) or NAME!~TEXT.
NAME is a column, a key of the configuration or a metric. All that are given must hold. Quote < and >."""


class RunsCommand:
    """Lists runs from their status.json and config.json alone."""

    summary = "the runs of a folder: find one by state, configuration or metric"

    def run(self, arguments: Sequence[str]) -> int:
        """Print the list. An empty one is no mistake."""
        options = self.parser().parse_args(arguments)
        with _without_collection():
            return self._list(options)

    def _list(self, options: argparse.Namespace) -> int:
        filters = [*map(parse_filter, options.filter), *_states(options.state)]
        if options.limit is not None and options.limit < 0:
            raise UserError(f"--limit {options.limit}: give a number of runs, or 0 for all")
        form = "json" if options.json else options.format
        outputs = Path(options.outputs)
        if not is_there(outputs) and options.outputs == "outputs" and form == "text":
            print(_nothing(outputs))
            return 0
        there = scan(outputs) if is_there(outputs) or options.outputs != "outputs" else []
        found = _chosen(there, filters, options.sort)
        limit = options.limit if options.limit is not None else _SHOWN if form == "text" else 0
        listed = found[:limit] if limit else found
        columns = _columns(options.columns, listed)
        check_names(columns, listed, "--columns")
        if form != "text":
            sys.stdout.buffer.write(_written(listed, columns, form, outputs, options.columns is not None))
        elif not found:
            print(_nothing(outputs) if not there else f"none of {len(there)} runs in {outputs} is of this kind")
        else:
            print(_text(listed, columns, outputs, len(found), len(there)))
        return 0

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit runs",
            description=self.summary + ". It reads status.json and config.json of each, no journal.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.signed = ("--sort",)
        parser.add_argument("outputs", nargs="?", default="outputs", help="the folder that holds runs (outputs)")
        parser.add_argument("--state", metavar="STATE,...", help=f"only these: {', '.join(STATES)}, unreadable")
        parser.add_argument(
            "--filter",
            action="append",
            default=[],
            metavar="CONDITION",
            help="only those for which it holds; repeatable",
        )
        parser.add_argument(
            "--columns",
            metavar="NAME,...",
            help=f"{', '.join(BUILT_IN)}; keys of the configuration, metrics; +NAME,... adds to the usual ones",
        )
        parser.add_argument("--sort", default="-active", metavar="NAME", help="by a column; -NAME descending (-active)")
        parser.add_argument("--limit", type=int, metavar="N", help=f"how many; 0 for all (as text {_SHOWN}, else all)")
        parser.add_argument(
            "--format",
            choices=("text", "markdown", "csv", "latex", "json"),
            default="text",
            help="how to print it (text)",
        )
        parser.add_argument("--json", action="store_true", help="the same as --format json")
        return parser


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from looking for garbage in what ten thousand runs say: it doubles the time, and finds none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _states(typed: str | None) -> list[Filter]:
    if typed is None:
        return []
    known = (*STATES, "unreadable")
    wrong = [each for each in typed.split(",") if each.strip() not in known]
    if wrong:
        raise UserError(f"--state {wrong[0]}: there is no such state; choose from {', '.join(known)}")
    return [Filter("state", "=", typed)]


def _chosen(runs: Sequence[RunEntry], filters: Sequence[Filter], sort: str) -> list[RunEntry]:
    """Return the runs that meet all conditions, sorted; those without what is sorted by come last."""
    check_names([each.name for each in filters], runs, "--filter")
    found = [run for run in runs if all(each.matches(run) for each in filters)]
    name = sort.lstrip("-")
    check_names([name], runs, "--sort")
    found.sort(key=lambda run: run.name)
    keyed = [(_sort_key(value_of(run, name)), run) for run in found]
    there = [pair for pair in keyed if pair[0] is not None]
    there.sort(key=lambda pair: pair[0] or (), reverse=sort.startswith("-"))
    return [run for _, run in there] + [run for key, run in keyed if key is None]


def _sort_key(value: Any) -> tuple[int, float, str] | None:
    """Return what orders numbers among themselves, and texts; None for nothing and for NaN."""
    if value is None or value is MISSING or value != value:
        return None
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, str(value)


def _columns(typed: str | None, runs: Sequence[RunEntry]) -> list[str]:
    added = [each.strip() for each in (typed or "").lstrip("+").split(",") if each.strip()]
    if typed is not None and not added:
        raise UserError("--columns: no column is named; write run,state,optimizer.lr")
    if typed is not None and not typed.startswith("+"):
        return added
    metric = main_metric(runs[:_LOOKED_AT])
    usual = [*_COLUMNS, *([metric] if metric else [])]
    ends = ["problem"] if any(run.problem for run in runs) else []
    return list(dict.fromkeys([*usual, *added, "overrides", *ends]))


def _written(runs: Sequence[RunEntry], columns: Sequence[str], form: str, outputs: Path, chosen: bool) -> bytes:
    """Return the list with raw values: times in seconds."""
    if form == "json" and not chosen:
        columns = list(dict.fromkeys([*BUILT_IN, *columns]))
    rows = _rows(runs, columns, value_of)
    if form == "json":
        plain = [{name: json_value(cell) for name, cell in zip(columns, row, strict=True)} for row in rows]
        return dump_json({"runs": plain}, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if form != "csv":
        rows = _rows(runs, columns, _cell)
    text = str(getattr(Table(f"Runs in {outputs}", columns, rows), form)())
    return (text if text.endswith("\n") else text + "\n").encode()


def _text(runs: Sequence[RunEntry], columns: Sequence[str], outputs: Path, found: int, there: int) -> str:
    """Return the list for a terminal, as wide as it is."""
    rows = _rows(runs, columns, _cell)
    if "overrides" in columns and len(runs) > 1:
        place = columns.index("overrides")
        for row, told in zip(rows, _telling(runs), strict=True):
            row[place] = told
    title = f"{there} run{'s' if there != 1 else ''} in {outputs}" + (
        f", {found} of this kind" if found < there else ""
    )
    left = f"{found - len(runs)} more: --limit 0 shows all" if len(runs) < found else ""
    table = Table(title, columns, rows, left)
    text = table.text()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    return _fitted(table, text, width) if width else text


def _rows(runs: Sequence[RunEntry], columns: Sequence[str], cell: Callable[[RunEntry, str], Any]) -> list[list[Any]]:
    rows = []
    for run in runs:
        rows.append([cell(run, name) for name in columns])
        run.forget()  # of ten thousand it would be hundreds of megabytes, which take time, too
    return rows


def _telling(runs: Sequence[RunEntry]) -> list[str | None]:
    """Return of each run what was typed, without what was typed for all of them."""
    shared = set.intersection(*(set(run.overrides) for run in runs))
    return [" ".join(each for each in run.overrides if each not in shared) or None for run in runs]


def _fitted(table: Table, text: str, width: int) -> str:
    """Return the text of a table that fits: of names the end is kept, which tells runs apart; of lines the start."""
    over = max(map(len, text.splitlines())) - width
    if over > 0 and "run" in table.columns:
        place = list(table.columns).index("run")
        longest = max(len(str(row[place])) for row in table.rows)
        room = max(_LEAST_NAME, longest - over)
        rows = [[_end(cell, room) if at == place else cell for at, cell in enumerate(row)] for row in table.rows]
        text = Table(table.title, table.columns, rows, table.note).text()
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in text.splitlines())


def _end(name: str, room: int) -> str:
    return name if len(name) <= room else "…" + name[len(name) - room + 1 :]


def _cell(run: RunEntry, name: str) -> Any:
    if name == "step":
        return "-" if run.step is None else f"{run.step}/{run.total_steps}" if run.total_steps else str(run.step)
    value = shown(name, value_of(run, name))
    if value is MISSING or value is None or isinstance(value, int | float | str):
        return None if value is MISSING else value
    return dump_json(value).decode()


def _nothing(outputs: Path) -> str:
    return f"there is no run in {outputs.absolute()}: start one with python -m train, or name the folder of your runs"
