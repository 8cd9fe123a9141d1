"""What a wrong option is answered with: one line that says what to type instead, not the whole usage."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

__all__ = ["Parser"]

_OF = re.compile(r"argument (?P<option>[^:]+): (?P<what>.+)", re.DOTALL)
_UNKNOWN = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """The parser of a command. A mistake is one line and exit code 2.

    Attributes:
        signed: options whose value may begin with a minus sign: --sort -val_loss.
    """

    signed: Collection[str] = ()

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, which takes a value that begins with a minus sign for an option."""
        words = list(sys.argv[1:] if args is None else args)
        for place in range(len(words) - 1, 0, -1):
            if words[place - 1] in self.signed:
                words[place - 1 : place + 1] = [f"{words[place - 1]}={words[place]}"]
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """End with one line on standard error."""
        found = _OF.fullmatch(message)
        if found is not None:
            message = f"{found['option']}: {found['what']}"
        elif message.startswith(_UNKNOWN):
            message = self._unknown(message.removeprefix(_UNKNOWN).split()[0])
        see = "" if message.endswith("?") else f"; {self.prog} --help lists what there is"
        self.exit(2, f"error: {message}{see}\n")

    def parse_with_settings(
        self, arguments: Sequence[str], flags: Collection[str] = ()
    ) -> tuple[argparse.Namespace, list[str]]:
        """Return the options, and the settings KEY=VALUE that were typed among them, as `python -m train` takes them.

        Args:
            arguments: what was typed.
            flags: of `python -m train`, with the value behind them, that are handed on, too.
        """
        options, others = self.parse_known_args(list(arguments))
        handed = [place for place, word in enumerate(others) if word.partition("=")[0] in flags]
        values = {place + 1 for place in handed if "=" not in others[place]}
        for place, word in enumerate(others):
            if place in values or place in handed or word.startswith("~"):
                continue
            if word.startswith("-"):
                self.error(f"{_UNKNOWN}{word}")
            if "=" not in word:
                self.error(f"{word}: a setting is written KEY=VALUE")
        return options, others

    def options(self) -> list[str]:
        """The names of all options, those of the command's own commands included."""
        inside = [parser for action in self._actions for parser in _parsers(action)]
        return [*self._option_string_actions, *(name for parser in inside for name in parser.options())]

    def _unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        if not name.startswith("-"):
            return f"{word}: one thing too many"
        close = difflib.get_close_matches(name, self.options(), n=1, cutoff=0.7)
        return f"there is no {name}" + (f": did you mean {close[0]}?" if close else "")


def _parsers(action: argparse.Action) -> list[Parser]:
    made = action.choices if isinstance(action, argparse._SubParsersAction) else None
    return list(made.values()) if isinstance(made, dict) else []
