"""`expkit compare RUN RUN ...`: in what runs differ, and what came of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from expkit.cli.finding import find_runs, newest_runs
from expkit.cli.parser import Parser
from expkit.errors import UserError
from expkit.lenient_json import dump_json
from expkit.printable import printable

if TYPE_CHECKING:
    from expkit.comparison.compare import Comparison, Request
    from expkit.experiment import RunDir

__all__ = ["CompareCommand", "add_choices", "as_json", "chosen_runs", "compared", "request_of"]

_TEXTS = {".md": "markdown", ".csv": "csv", ".json": "json", ".tex": "latex", ".txt": "text"}
_PICTURES = (".png", ".svg", ".pdf")
_MOST_PANELS = 9

_EXAMPLES = """examples:
  expkit compare                                   the two newest runs in outputs
  expkit compare RUN RUN RUN
  expkit compare 'outputs/denoise_*' --metrics 'val_*' --x time
  expkit compare --newest 6 --group-by seed --value best          means over seeds, and tests in pairs
  expkit compare --newest 6 --group-by optimizer.lr --baseline 0.003
  expkit compare RUN RUN -o compare.png            the curves; also .md, .csv, .json, .tex, .svg, .pdf
  expkit compare RUN RUN --json                    for programs"""


class CompareCommand:
    """Compares runs from their files."""

    summary = "several runs side by side: their configurations' differences, and each metric"

    def run(self, arguments: Sequence[str]) -> int:
        """Print the comparison, or write it."""
        options = self.parser().parse_args(arguments)
        if options.format is not None and options.output is not None:
            raise UserError(f"--output {options.output}: its ending says the format; leave --format out")
        comparison = compared(options)
        for note in comparison.notes:
            print(f"note: {printable(note)}", file=sys.stderr)
        if options.output is None:
            sys.stdout.buffer.write(written(comparison, "json" if options.json else options.format or "text"))
            return 0
        if options.output.suffix in _PICTURES:
            draw(comparison, options.output, options.theme)
        elif options.output.suffix in _TEXTS:
            _save(options.output, written(comparison, _TEXTS[options.output.suffix]))
        else:
            raise UserError(f"--output {options.output}: its name must end in {', '.join([*_TEXTS, *_PICTURES])}")
        print(printable(str(options.output)))
        return 0

    def parser(self) -> Parser:
        """Return the command's parser."""
        return _parser()


def add_choices(parser: Parser, default: str = "the two newest") -> None:
    """Add what says which runs are compared, and how."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"run directories, ids in outputs, or patterns (default: {default})"
    )
    parser.add_argument("--newest", type=int, metavar="N", help="the N runs in outputs that were active last")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), metavar="DIR", help="where runs are (outputs)")
    parser.add_argument("--metrics", metavar="NAME,...", help="metrics or patterns: val_*,train_loss (default: 8)")
    parser.add_argument(
        "--x",
        choices=("step", "epoch", "time", "samples"),
        default="step",
        help="what curves are aligned by (step)",
    )
    parser.add_argument(
        "--group-by",
        metavar="KEY",
        help="seed: runs that differ in seeds alone are one group; or a key of the configuration, optimizer.lr",
    )
    parser.add_argument("--baseline", metavar="GROUP", help="the group that others are held against (the first)")
    parser.add_argument(
        "--value",
        choices=("last", "best", "min", "max", "at"),
        default="last",
        help="of each run, for groups; at: where the shortest run ends (last)",
    )
    parser.add_argument("--minimize", action="append", default=[], metavar="METRIC", help="less of it is better")
    parser.add_argument("--maximize", action="append", default=[], metavar="METRIC", help="more of it is better")


def compared(options: argparse.Namespace) -> Comparison:
    """Return the comparison that was asked for.

    Raises:
        UserError: there is no such run, metric or key.
    """
    from expkit.comparison.compare import compare
    from expkit.comparison.run_data import load_runs

    runs = chosen_runs(options)
    return compare(load_runs(runs), request_of(options))


def chosen_runs(options: argparse.Namespace, newest: int = 2) -> list[RunDir]:
    """Return the runs that were asked for; where nobody has said which, so many of the newest.

    Raises:
        UserError: there is no such run.
    """
    if options.newest is not None and options.runs:
        raise UserError("--newest: it chooses the runs; leave their names out")
    if options.newest is not None and options.newest < 1:
        raise UserError(f"--newest {options.newest}: give a number of at least 1")
    named = bool(options.runs)
    return find_runs(options.runs, options.outputs) if named else newest_runs(options.outputs, options.newest or newest)


def request_of(options: argparse.Namespace) -> Request:
    """Return what is to be compared, and how.

    Raises:
        UserError: --metrics names none.
    """
    from expkit.comparison.compare import Request

    named = None if options.metrics is None else [name.strip() for name in options.metrics.split(",")]
    metrics = None if named is None else [name for name in named if name]
    if metrics == []:
        raise UserError("--metrics: no metric is named; write val_loss,train_loss")
    return Request(
        metrics, options.x, options.group_by, options.baseline, options.value, options.minimize, options.maximize
    )


def written(comparison: Comparison, form: str) -> bytes:
    """Return a comparison as text, markdown, csv, json or latex."""
    from expkit.comparison.tables import tables_of, tidy_table, to_json
    from expkit.telling import telling_rank

    if form == "json":
        return as_json(to_json(comparison))
    if form == "csv":
        return tidy_table(comparison).csv().encode("utf-8", "replace")
    tables = [getattr(table, form)() for table in tables_of(comparison)]
    if form == "text" and comparison.left_out:
        first = printable(min(comparison.left_out, key=telling_rank))
        tables.append(f"{len(comparison.left_out)} more metrics: --metrics {first},... (or '*')")
    return ("\n\n".join(tables) + "\n").encode("utf-8", "replace")


def as_json(value: Any) -> bytes:
    """Return plain values as JSON that a terminal may show: in it, nothing is to be obeyed, half characters are `?`."""
    try:
        text = dump_json(value, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    except TypeError:  # a file's name that is no text
        text = json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n"
    return "".join(
        sign if sign.isprintable() or sign == "\n" or sign.isspace() else _escaped(sign) for sign in text
    ).encode("utf-8", "replace")


def _escaped(sign: str) -> str:
    return "?" if "\ud800" <= sign <= "\udfff" else json.dumps(sign)[1:-1]


def draw(comparison: Comparison, path: Path, theme: str) -> None:
    """Draw the metrics' curves into a picture.

    Raises:
        UserError: no run has a curve, or the file cannot be written.
    """
    from expkit.comparison.panels import panels_of
    from expkit.plots.drawing import draw_panels, save_figure
    from expkit.plots.themes import find_theme

    panels = panels_of(comparison)
    if not panels:
        raise UserError(f"--output {path}: no metric here has a curve; --metrics chooses others")
    heading = f"{len(comparison.runs)} runs" if len(comparison.runs) > 1 else comparison.runs[0].name
    note = "mean and 95 % confidence interval of each group" if comparison.groups else ""
    figure = draw_panels(heading, panels[:_MOST_PANELS], find_theme(theme), note, shared_legend=True)
    try:
        save_figure(figure, path)
    except OSError as error:
        raise UserError(f"--output {path}: it cannot be written: {error.strerror}") from None


def _save(path: Path, content: bytes) -> None:
    from expkit.files import atomic_writer

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path, durable=False) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"--output {path}: it cannot be written: {error.strerror}") from None


def _parser() -> Parser:
    parser = Parser(
        prog="expkit compare",
        description=CompareCommand.summary + ".",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_choices(parser)
    parser.add_argument("--format", choices=("text", "markdown", "csv", "json", "latex"), help="how to print it (text)")
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=".md, .csv, .json, .tex, .png, .svg or .pdf")
    parser.add_argument("--theme", default="light", help="of a picture: dark, light (default) or print")
    return parser
