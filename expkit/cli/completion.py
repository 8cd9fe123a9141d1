"""`expkit completion bash`: a script that completes commands, options and runs. No Tab starts Python."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from expkit.cli.main import command_names, find_command
from expkit.cli.parser import Parser
from expkit.errors import UserError

__all__ = ["CompletionCommand", "script"]

_SHELLS = ("bash", "zsh", "fish")

#: What arguments are called that stand for runs.
_RUNS = frozenset({"run", "runs", "words", "names", "path"})

_RUN_FUNCTIONS = {"bash": "_expkit_runs_or_dirs", "zsh": "_expkit_runs_or_dirs", "fish": "(_expkit_runs_or_dirs)"}
#: Ids of the runs in ./outputs, and paths. (Of functions with _dir in their names shtab tells bash that it gets files.)
_PREAMBLES = {
    "bash": """
_expkit_runs_or_dirs() {
  compgen -W latest -- "$1"
  compgen -d -- "outputs/$1" | sed 's|^outputs/||'
  compgen -f -- "$1"
}
""",
    "zsh": """
_expkit_runs_or_dirs() {
  local -a ids
  ids=(latest outputs/*(/N:t))
  _alternative 'runs:run:compadd -a ids' 'files:file:_files'
}
""",
    "fish": """
function _expkit_runs_or_dirs
  echo latest
  for run in outputs/*/
    string replace -r '^outputs/(.*)/$' '$1' -- $run
  end
  __fish_complete_path (commandline -ct)
end
""",
}

_EXAMPLES = """examples:
  expkit completion                        for the shell that SHELL names
  expkit completion bash > ~/.local/share/bash-completion/completions/expkit
  expkit completion zsh > ~/.zfunc/_expkit
  expkit completion fish > ~/.config/fish/completions/expkit.fish

For this terminal alone (bash): eval "$(expkit completion bash)". Print it anew after an update of expkit.
zsh needs fpath+=~/.zfunc before compinit in ~/.zshrc. What follows `expkit train` is Hydra's:
eval "$(python -m train -sc install=bash)" completes it behind python -m train."""


class CompletionCommand:
    """Prints what a shell needs to complete `expkit`."""

    summary = "completion of commands, options and runs for bash, zsh or fish"

    def run(self, arguments: Sequence[str]) -> int:
        """Print the script."""
        shell = self.parser().parse_args(arguments).shell or Path(os.environ.get("SHELL", "")).name
        if shell not in _SHELLS:
            raise UserError("which shell? expkit completion bash, zsh or fish")
        sys.stdout.write(script(shell))
        return 0

    def parser(self) -> Parser:
        """Return the command's parser."""
        parser = Parser(
            prog="expkit completion",
            description=f"Print a script: {self.summary}.",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("shell", nargs="?", choices=_SHELLS, help="(default: the one that SHELL names)")
        return parser


def script(shell: str) -> str:
    """Return the script for bash, zsh or fish."""
    import shtab

    text = shtab.complete(_whole(), shell, preamble=_PREAMBLES[shell])
    return text if text.endswith("\n") else text + "\n"


def _whole() -> Parser:
    """Return one parser of all commands, with what completes their arguments."""
    whole = Parser(prog="expkit", description="experiments")
    whole.add_argument("-V", "--version", action="store_true", help="the version")
    commands = whole.add_subparsers(metavar="COMMAND")
    for name in itertools.chain.from_iterable(command_names().values()):
        try:
            command = find_command(name)
        except UserError:
            continue  # it cannot be used here
        commands.add_parser(name, help=command.summary, description=command.summary)
        own = getattr(command, "parser", None)
        if own is not None:
            parser = own()
            _mark(parser)
            commands._name_parser_map[name] = parser
    return whole


def _mark(parser: argparse.ArgumentParser) -> None:
    """Say what completes each argument: shtab reads the attribute `complete`."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inside in action.choices.values():
                _mark(inside)
        elif not action.option_strings and action.dest in _RUNS:
            action.complete = _RUN_FUNCTIONS  # type: ignore[attr-defined]
        elif action.metavar == "DIR" or action.dest == "outputs":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
