"""Whether a command line is a run or a sweep, without composing the whole configuration for that alone.

Hydra composes it once to look for `hydra.mode`, then once more for use. Almost always only -m decides, which the texts
of the files tell in a hundredth of the time.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra._internal.hydra import Hydra

__all__ = ["mode_by_flags"]

#: What sets the mode in a file, or leads to files that are not looked at here.
_DECIDES = re.compile(r"\bMULTIRUN\b|^\s*(hydra\.)?(mode\s*:\s*[12]\b|searchpath\s*:)", re.MULTILINE)


@contextlib.contextmanager
def mode_by_flags(arguments: Sequence[str], folders: Sequence[Path]) -> Iterator[None]:
    """Within the block, Hydra goes by -m alone if nothing else can decide.

    Args:
        arguments: what Hydra gets.
        folders: of configuration files.
    """
    original = Hydra.get_mode
    elsewhere = any("hydra" in each or each.startswith(("-cp", "--config-path")) for each in arguments)
    if not elsewhere and not any(map(_decides, folders)):
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = original  # type: ignore[method-assign]


def _decides(folder: Path) -> bool:
    try:
        return any(_DECIDES.search(file.read_text(encoding="utf-8")) for file in folder.rglob("*.yaml"))
    except (OSError, UnicodeDecodeError):
        return True  # Hydra says what is wrong with it
