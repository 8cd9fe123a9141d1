"""Which program `train` is in this folder: this package, or a module of the user's own that hides it."""

from __future__ import annotations

import importlib.machinery
from pathlib import Path

__all__ = ["shadow"]


def shadow() -> str | None:
    """Return the module of the user's own that `python -m train` finds in this folder, if there is one."""
    found = importlib.machinery.PathFinder.find_spec("train", [str(Path.cwd())])
    if found is None or found.origin is None or Path(found.origin).parent == Path(__file__).parent:
        return None
    return found.origin
