"""`expkit checkpoints RUN`: which checkpoints there are, what each is for, and whether every byte is right."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from expkit.cli.finding import find_with
from expkit.cli.parser import Parser
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.files import read_json

__all__ = ["CheckpointsCommand", "readable_size"]

_NAME = re.compile(r"checkpoint_step_(?P<step>0|[1-9]\d*)\.pt(?:\.(?P<aside>corrupt|rewound)(?:\.\d+)?)?")

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
            sys.stdout.buffer.write(orjson.dumps(listing, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
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


def describe(folder: Path, verify: bool = False) -> dict[str, Any]:
    """Return what there is to say of the checkpoints in `folder`: the fields of `expkit checkpoints --json`.

    Args:
        folder: the folder called `checkpoints` of a run.
        verify: read every byte. Otherwise no file is opened, and which one is the best is what the link says.
    """
    entries = list(_entries(folder))
    best = _linked(folder / "checkpoint_best.pt")
    if verify:
        entries, best = _verified(entries, folder)
    there = [entry for entry in entries if entry["aside"] is None]
    newest = max((entry["step"] for entry in there), default=None)
    usable = max((entry["step"] for entry in there if entry["valid"] is not False), default=None)
    origin = _resumed_from(folder.parent)
    for entry in entries:
        step, aside = entry["step"], entry["aside"]
        uses = (("newest", step == newest), ("best", step == best), ("resumed from", step == origin))
        entry["uses"] = [f"set aside: {aside}"] if aside else [use for use, is_so in uses if is_so]
    return {
        "folder": str(folder),
        "verified": verify,
        "checkpoints": entries,
        "total_bytes": sum(entry["bytes"] for entry in entries),
        "resume_step": usable,
    }


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what the folder itself tells of each checkpoint, newest step first."""
    try:
        names = [(path, match) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
    for path, match in sorted(names, key=lambda each: (-int(each[1]["step"]), each[0].name)):
        with contextlib.suppress(FileNotFoundError):  # a training process may delete old ones meanwhile
            stat = path.stat() if path.exists() else path.lstat()  # a link that points nowhere is there all the same
            yield {
                "step": int(match["step"]),
                "path": str(path),
                "bytes": stat.st_size,
                "modified": f"{datetime.fromtimestamp(stat.st_mtime):%Y-%m-%d %H:%M:%S}",
                "aside": match["aside"],
                "valid": None,
                "problem": None,
                "reason": None,
                "metrics": None,
            }


def _verified(entries: list[dict[str, Any]], folder: Path) -> tuple[list[dict[str, Any]], int | None]:
    """Return the entries of the files that are still there, each read whole, and the step of the best."""
    from expkit.checkpoints import CheckpointManager, checkpoint_error

    manager = CheckpointManager(folder.absolute().parent)
    known = {info["step"]: dict(info) for info in manager.list_checkpoints()}
    best, found = None, []
    for entry in entries:
        info = known.get(entry["step"], {}) if entry["aside"] is None else {}
        try:
            problem = None if info.get("valid") else checkpoint_error(Path(entry["path"]))
        except OSError as error:
            if not os.path.lexists(entry["path"]):  # deleted meanwhile
                continue
            problem = f"it cannot be read ({error.strerror or error})"
        found.append(
            {
                **entry,
                "valid": problem is None,
                "problem": problem,
                "reason": info.get("reason"),
                "metrics": info.get("metrics"),
            }
        )
    marked = manager.best_path()
    if marked is not None:
        match = _NAME.fullmatch(marked.name)
        best = int(match["step"]) if match else None
    return found, best


def _linked(link: Path) -> int | None:
    """Return the step of the checkpoint in the same folder that a link points at."""
    try:
        match = _NAME.fullmatch(str(link.readlink()))
    except OSError:
        return None
    return int(match["step"]) if match else None


def _resumed_from(run: Path) -> int | None:
    """Return the step of the checkpoint that the run went on from last; retention never deletes it."""
    try:
        resumes = read_json(RunDir(run).config).get("resumes")
        return int(resumes[-1]["step"]) if resumes else None
    except (UserError, ArithmeticError, TypeError, ValueError, LookupError):  # a copy without it, or a damaged one
        return None


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
