"""`expkit`: one command, whose subcommands are files in this folder or entry points of other packages."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn, Protocol

import expkit
from expkit.errors import UserError
from expkit.printable import printable

__all__ = ["Command", "command_names", "find_command", "main"]

#: Subcommand -> the module and class that hold it. Loaded when it is used, or its help is.
_COMMANDS = {
    "checkpoints": "expkit.cli.checkpoints:CheckpointsCommand",
    "compare": "expkit.cli.compare:CompareCommand",
    "completion": "expkit.cli.completion:CompletionCommand",
    "dashboard": "expkit.cli.dashboard:DashboardCommand",
    "monitor": "expkit.cli.monitor:MonitorCommand",
    "replay": "expkit.cli.replay:ReplayCommand",
    "report": "expkit.cli.report:ReportCommand",
    "runs": "expkit.cli.runs:RunsCommand",
    "show": "expkit.cli.show:ShowCommand",
    "snapshots": "expkit.cli.snapshots:SnapshotsCommand",
    "svd": "expkit.cli.svd:SVDCommand",
    "sweep": "expkit.cli.sweep:SweepCommand",
    "sync": "expkit.cli.sync:SyncCommand",
    "wandb": "expkit.cli.wandb:WandbCommand",
    "watch": "expkit.cli.watch:WatchCommand",
}

#: What stands together in `expkit --help`, in the order in which one needs it. Others come last.
_GROUPS = {
    "Train": ("train", "profile", "verify-resume"),
    "While it runs": ("monitor", "watch", "svd", "sweep"),
    "Afterwards": ("runs", "show", "compare", "report", "checkpoints", "snapshots"),
    "When numbers went wrong": ("batch", "bisect-nan"),
    "W&B and trackio": ("dashboard", "replay", "sync", "wandb"),
    "Your shell": ("completion",),
}
_OTHERS = "Of other packages"


#: Commands that talk to W&B and leave nothing to be ended: interrupted as its service starts, W&B waits for that.
_NOTHING_TO_END = frozenset({"sync", "wandb"})


class Command(Protocol):
    """What a subcommand is. Packages that expkit must not import offer theirs as `expkit.commands` entry points."""

    #: One line for `expkit --help`.
    summary: str

    def run(self, arguments: Sequence[str]) -> int:
        """Do it and return the exit code. `UserError` is printed as one line."""
        ...

    # A command may also have `parser() -> expkit.cli.parser.Parser`, which completion and tests of its help read.


def main(argv: Sequence[str] | None = None) -> int:
    """Run `expkit` with `argv` (without the program's name) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        if argv is None and error.hangs:
            _leave(1)
        return 1
    except KeyboardInterrupt:  # while something is waited for
        if argv is None and arguments[0] in _NOTHING_TO_END:
            _leave(130)
        return 130
    except BrokenPipeError:  # the reader of our output, head say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        return 0
    except OSError as error:  # a folder in the place of a journal, say, or a disk that cannot be read
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"error: {printable(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return 1


def _leave(code: int) -> NoReturn:
    """End the process without what libraries do at its exit, which may wait for a server for ever."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"expkit {expkit.__version__}")
        return 0
    return find_command(arguments[0]).run(arguments[1:])


def _entries() -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group="expkit.commands")}


def find_command(name: str) -> Command:
    """Return a command.

    Raises:
        UserError: there is none of this name, or it cannot be used here.
    """
    if name in _COMMANDS:
        module, _, attribute = _COMMANDS[name].partition(":")
        made: Command = getattr(importlib.import_module(module), attribute)()
        return made
    entries = _entries()
    if name not in entries:
        known = sorted({*_COMMANDS, *entries})
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {close[0]}? There are" if close else "choose from"
        raise UserError(f"expkit has no command {name!r}: {meant} {', '.join(known)}; expkit --help says more")
    _refuse_shadow(name, getattr(entries[name], "module", ""))
    found: Command = entries[name].load()()
    return found


def _refuse_shadow(name: str, module: str) -> None:
    """Refuse to import somebody's own train.py, say, where `python -m expkit` finds it before the command's package."""
    package, _, inside = module.partition(".")
    spec = importlib.util.find_spec(package) if inside else None
    if spec is None or spec.origin is None:
        return
    files = [Path(place, *inside.split(".")) for place in spec.submodule_search_locations or ()]
    if not any(file.with_suffix(".py").exists() or file.is_dir() for file in files):
        raise UserError(
            f"{spec.origin} is found in place of the package {package!r}, which `expkit {name}` needs: rename it, "
            "or use the command expkit instead of python -m expkit"
        )


def command_names() -> dict[str, list[str]]:
    """Return the names of all commands that can be used here, by what they are for."""
    left = {*_COMMANDS, *_entries()}
    groups = {title: [name for name in names if name in left] for title, names in _GROUPS.items()}
    others = sorted(left - {name for names in groups.values() for name in names})
    return {title: names for title, names in {**groups, _OTHERS: others}.items() if names}


def _help() -> str:
    groups = command_names()
    width = max(len(name) for names in groups.values() for name in names)
    said = ["usage: expkit COMMAND ...", ""]
    for title, names in groups.items():
        said += [title, *(f"  {name:<{width}}  {_summary(name)}" for name in names), ""]
    return "\n".join(
        [
            *said,
            "expkit COMMAND --help has examples of one. Start with: expkit train; then: expkit monitor, expkit show.",
            "Exit codes: 0 done, 1 a mistake or a failure, 2 a wrong option. A RUN left out is the newest in outputs.",
        ]
    )


def _summary(name: str) -> str:
    try:
        return find_command(name).summary
    except UserError as error:
        return f"cannot be used here: {error}"
