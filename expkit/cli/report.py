"""`expkit report RUN...`: runs as a page to hand on, or as Markdown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from expkit.cli.compare import add_choices, as_json, chosen_runs, request_of
from expkit.cli.parser import Parser
from expkit.experiment import RunDir
from expkit.printable import printable
from expkit.report import Written, write_report

__all__ = ["ReportCommand"]

_NAME = "report.html"

_EXAMPLES = """examples:
  expkit report                                    of the newest run, into its directory
  expkit report RUN -o report.html
  expkit report 'outputs/gpt_*' --group-by seed    several, with means over seeds
  expkit report RUN -o small.html --static         curves as pictures, without JavaScript
  expkit report RUN -o appendix.md                 for a paper: tables, and figures beside it"""


class ReportCommand:
    """Writes a report from runs' files."""

    summary = "one page of one run or more that opens from disk: curves, configuration, events, pictures"

    def run(self, arguments: Sequence[str]) -> int:
        """Write the report, and print where it is."""
        options = self.parser().parse_args(arguments)
        runs = chosen_runs(options, newest=1)
        written = write_report(
            runs,
            options.output or _usual(runs),
            request=request_of(options),
            title=options.title,
            theme=options.theme,
            static=options.static,
            single=options.single,
        )
        _say(written, runs, options)
        return 0

    def parser(self) -> Parser:
        """Return the command's parser."""
        return _parser()


def _usual(runs: Sequence[RunDir]) -> Path:
    """Return where a report is put where nobody has said: into its run; of several into this folder."""
    return runs[0].root / _NAME if len(runs) == 1 else Path(_NAME)


def _say(written: Written, runs: Sequence[RunDir], options: argparse.Namespace) -> None:
    size = written.path.stat().st_size
    if options.json:
        told = {
            "path": str(written.path),
            "bytes": size,
            "pictures": list(map(str, written.pictures)),
            "runs": [str(run.root) for run in runs],
            "notes": written.notes,
            "left_out": written.left_out,
        }
        sys.stdout.buffer.write(as_json(told))
        return
    for note in written.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    count = sum(map(len, written.left_out.values()))
    if count:
        print(f"note: {count} picture(s) or text(s) are left out, to keep it small; a page names them", file=sys.stderr)
    beside = f", with {len(written.pictures)} pictures in {written.pictures[0].parent}" if written.pictures else ""
    print(printable(f"{written.path}  ({_megabytes(size)}{beside})"))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.0f} kB"


def _parser() -> Parser:
    parser = Parser(
        prog="expkit report",
        description=ReportCommand.summary + ".",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_choices(parser, default="the newest")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE",
        help=".html or .md (default: report.html, in the run's directory; of several runs, here)",
    )  # fmt: skip
    parser.add_argument("--title", help="of the report (the run's id)")
    parser.add_argument(
        "--theme",
        choices=("auto", "dark", "light", "print"),
        default="auto",
        help="colours; auto: the reader's own, dark or light (auto)",
    )
    parser.add_argument(
        "--static", action="store_true", help="curves as pictures: a small page (else 4.8 MB are plotly's JavaScript)"
    )
    parser.add_argument("--single", action="store_true", help="of .md: one file, without pictures")
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")
    return parser
