"""`expkit checkpoints RUN`: which checkpoints there are, what each is for, and whether every byte is right."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from expkit.cli.finding import find_with
from expkit.cli.parser import Parser
from expkit.errors import UserError
from expkit.lenient_json import dump_json
from expkit.listing.checkpoints import describe

__all__ = ["CheckpointsCommand", "readable_size"]

_EXAMPLES = """examples:
  expkit checkpoints                      of the newest run in outputs
  expkit checkpoints RUN --verify         read every byte, and say what is wrong
  expkit checkpoints RUN --json           one JSON object, for programs
  expkit checkpoints copied/checkpoints   a folder of checkpoints, wherever it is"""


class CheckpointsCommand:
    """Lists the checkpoints of one run. It only reads, and may do so while the run goes on."""

    summary = "which checkpoints a run has, and whether they are intact"

    def run(self, arguments: Sequence[str]) -> int:
        """Print the list, as a table or (--json) as JSON. The exit code is 1 if --verify has found damage."""
        options = self.parser().parse_args(arguments)
        run = find_with("checkpoints", options.run, Path("outputs"))
        if not run.checkpoints.is_dir():
            raise UserError(f"{run.root} has no folder of checkpoints")
        listing = describe(run.checkpoints, options.verify)
        if options.json:
            sys.stdout.buffer.write(dump_json(listing, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        else:
            print("\n".join(_lines(listing)))
        return int(any(entry["valid"] is False and entry["aside"] != "corrupt" for entry in listing["checkpoints"]))

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit checkpoints",
            description=self.summary + ". Nothing in them is executed.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "run",
            nargs="?",
            help="a run directory, its checkpoints folder, the id of a run in outputs, or latest (the default)",
        )
        parser.add_argument("--verify", action="store_true", help="read every byte; exit code 1 if any is damaged")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
        return parser


def _lines(listing: dict[str, Any]) -> Iterator[str]:
    yield listing["folder"]
    entries, verified = listing["checkpoints"], listing["verified"]
    rows = [_row(entry) for entry in entries]
    header = ("step", "size", "saved", "for", "why", "metrics", "verified")
    shown = [column for column, title in enumerate(header) if column < 4 or any(row[column] for row in rows)]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows] if rows else ():
        cells = [
            row[column].rjust(widths[column]) if column < 2 else row[column].ljust(widths[column]) for column in shown
        ]
        yield "  ".join(["", *cells]).rstrip()
    if not rows:
        yield "  no checkpoint yet"
        return
    number = len(rows)
    total = f"{number} file{'s' if number > 1 else ''}, {readable_size(listing['total_bytes'])}"
    step = listing["resume_step"]
    if step is None:
        yield f"{total}; none that a resume could take"
    else:
        checked = "verified" if verified else "not verified: --verify reads every byte"
        yield f"{total}; a resume takes step {step} ({checked})"


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    metrics = entry["metrics"] or {}
    numbers = [f"{name} {value:.5g}" for name, value in metrics.items() if isinstance(value, int | float)]
    state = "" if entry["valid"] is None else "intact" if entry["valid"] else entry["problem"]
    return (
        str(entry["step"]),
        readable_size(entry["bytes"]),
        entry["modified"],
        ", ".join(entry["uses"]),
        str(entry["reason"] or ""),
        "  ".join(numbers[:2]),
        state,
    )


def readable_size(number: int) -> str:
    """Return a number of bytes in units of 1024."""
    size, unit = float(number), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 1024 or unit == "TB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
