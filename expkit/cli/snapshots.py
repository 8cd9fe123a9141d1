"""`expkit snapshots RUN`: what was kept of a run's anomalies and best models, whether it is intact, and cleaning up."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from expkit.cli.checkpoints import readable_size
from expkit.cli.finding import find_with
from expkit.cli.parser import Parser
from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.lenient_json import dump_json
from expkit.snapshots.cleaning import Retention, freed_by, parse_age, parse_size, remove, size_on_disk
from expkit.snapshots.reading import Snapshot, list_snapshots, quick_problem, verify

__all__ = ["SnapshotsCommand"]

_EXAMPLES = """examples:
  expkit snapshots                      of the newest run in outputs
  expkit snapshots RUN --verify         read every byte, and say what is wrong
  expkit snapshots RUN --json           one JSON object, for programs
  expkit snapshots RUN --clean --older-than 30d --kind loss_spike          what would go
  expkit snapshots RUN --clean --max-size 10GB --yes                       remove it
  python -m train resume=RUN/snapshots/anomaly_...                         a new run that begins there

Without --kind, snapshots of best models stay; the newest of these always stays."""


class SnapshotsCommand:
    """Lists the snapshots of one run, and removes what nobody needs any more."""

    summary = "what was kept of a run's anomalies and best models"

    def run(self, arguments: Sequence[str]) -> int:
        """Print the list, or with --clean what would go or has gone. The exit code is 1 if one is damaged."""
        options = self.parser().parse_args(arguments)
        retention = _retention(options)
        run = find_with("snapshots", options.run, Path("outputs"))
        snapshots = list_snapshots(run)
        for kind in options.kind:
            if not any(each.is_of(kind) for each in snapshots):
                there = ", ".join(sorted({of for each in snapshots for of in each.kinds})) or "none"
                print(f"note: no snapshot is of the kind {kind}; there are: {there}", file=sys.stderr)
        going = retention.removable(snapshots) if retention is not None else []
        listing = describe(run, going if retention is not None else snapshots, options.verify)
        removed = False
        if retention is not None:
            listing |= {"cleaned": options.yes, "freed_bytes": freed_by(going)}
            if options.yes:
                _remove(going)
                removed = True
        if options.json:
            sys.stdout.buffer.write(dump_json(listing, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        else:
            print("\n".join(_lines(listing)))
        return int(not removed and any(entry["valid"] is False for entry in listing["snapshots"]))

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit snapshots",
            description=self.summary + ". Nothing in them is executed.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "run",
            nargs="?",
            help="a run directory, its snapshots folder, the id of a run in outputs, or latest (the default)",
        )
        parser.add_argument("--verify", action="store_true", help="read every byte; otherwise only sizes are compared")
        parser.add_argument("--clean", action="store_true", help="show what would be removed; with --yes remove it")
        parser.add_argument(
            "--older-than", metavar="AGE", help="with --clean: those of at least this age: 30d, 12h, 2w"
        )
        parser.add_argument(
            "--kind", action="append", default=[], help="with --clean: only these: loss_spike (may be repeated)"
        )
        parser.add_argument("--max-size", metavar="SIZE", help="with --clean: the newest that fit stay: 10GB")
        parser.add_argument("--yes", action="store_true", help="with --clean: remove them")
        parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
        return parser


def describe(run: RunDir, snapshots: Sequence[Snapshot], read: bool = False) -> dict[str, Any]:
    """Return what there is to say of `snapshots` of `run`: the fields of `expkit snapshots --json`.

    Args:
        run: the run.
        snapshots: some or all of its snapshots.
        read: read every byte. Otherwise `valid` is false for what is damaged at first sight, and null for all else.
    """
    return {
        "folder": str(run.snapshots),
        "verified": read,
        "snapshots": [_entry(each, read) for each in snapshots],
        "bytes_on_disk": size_on_disk(snapshots),
        "shared_bytes": size_on_disk(snapshots) - freed_by(snapshots),
    }


def _entry(snapshot: Snapshot, read: bool) -> dict[str, Any]:
    try:
        problem = verify(snapshot) if read else quick_problem(snapshot)
    except OSError as error:
        problem = f"it cannot be read ({error.strerror or error})"
    return {
        "path": str(snapshot.path),
        "time": f"{snapshot.time:%Y-%m-%d %H:%M:%S}",
        "reason": snapshot.reason,
        "kinds": snapshot.kinds,
        "triggers": snapshot.triggers,
        "step": snapshot.step,
        "loss": snapshot.loss,
        "accuracy": snapshot.accuracy,
        "checkpoint_step": snapshot.checkpoint_step,
        "model": snapshot.model,
        "bytes": snapshot.size,
        "valid": False if problem is not None else True if read else None,
        "problem": problem,
    }


def _retention(options: argparse.Namespace) -> Retention | None:
    criteria = {"--older-than": options.older_than, "--kind": options.kind, "--max-size": options.max_size}
    if not options.clean:
        alone = next((name for name, value in {**criteria, "--yes": options.yes}.items() if value), None)
        if alone is not None:
            raise UserError(f"{alone} says what to remove: it belongs to --clean")
        return None
    if not any(criteria.values()):
        raise UserError("--clean: say which ones: --older-than 30d, --kind loss_spike, --max-size 10GB")
    return Retention(
        parse_age(options.older_than) if options.older_than else None,
        tuple(options.kind),
        parse_size(options.max_size) if options.max_size else None,
    )


def _remove(snapshots: Sequence[Snapshot]) -> None:
    for each in snapshots:
        try:
            remove(each)
        except FileNotFoundError:
            continue  # somebody else was faster
        except OSError as error:
            raise UserError(f"{each.path} cannot be removed: {error.strerror or error}") from None


def _lines(listing: dict[str, Any]) -> Iterator[str]:
    yield listing["folder"]
    entries, cleaning = listing["snapshots"], "cleaned" in listing
    if not entries:
        yield "  nothing to remove" if cleaning else "  no snapshot yet"
        return
    header = ("time", "reason", "step", "loss", "checkpoint", "size", "state")
    rows = [header, *map(_row, entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        cells = [text.ljust(widths[at]) if at in (0, 1, 6) else text.rjust(widths[at]) for at, text in enumerate(row)]
        yield "  ".join(["", *cells]).rstrip()
    number = f"{len(entries)} snapshot{'s' if len(entries) > 1 else ''}"
    if cleaning:
        size = readable_size(listing["freed_bytes"])
        yield f"{number} removed: {size} freed" if listing["cleaned"] else f"{number}, {size}: --yes removes them"
        return
    shared = f", {readable_size(listing['shared_bytes'])} of it shared with others" if listing["shared_bytes"] else ""
    checked = "" if listing["verified"] else "; not verified: --verify reads every byte"
    yield f"{number}, {readable_size(listing['bytes_on_disk'])} on the disk{shared}{checked}"


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    loss = entry["loss"]
    kept = ", ".join(entry["model"]) or "none"  # of another trainer, which says the step in its own way
    return (
        entry["time"],
        entry["reason"],
        "?" if entry["step"] is None else str(entry["step"]),
        "" if loss is None else f"{loss:.5g}",
        kept if entry["checkpoint_step"] is None else f"step {entry['checkpoint_step']}",
        readable_size(entry["bytes"]),
        entry["problem"] or ("intact" if entry["valid"] else ""),
    )
