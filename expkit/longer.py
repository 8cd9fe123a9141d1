"""What to type for a run to go on, and for one that has finished to be trained for longer."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["again", "longer"]


def again(run: Path, folders: Sequence[str] = (), program: str = "python -m train") -> str:
    """Return the command that goes on with a run, fit for a shell.

    Args:
        run: its directory.
        folders: of one's own configuration, which a resume needs again.
        program: what trains.
    """
    flags = [word for folder in folders for word in ("--config-dir", folder)]
    return shlex.join([*program.split(), *flags, f"resume={run}"])


def longer(trainer: Mapping[str, Any], step: int | None = None, total_steps: int | None = None) -> str:
    """Return the override with twice the limit at which a run has ended: `trainer.max_epochs=100`.

    A run that a resume has left beyond its limit gets the first multiple that is beyond the run.

    Args:
        trainer: the section of its configuration, with `max_epochs` and `max_steps`.
        step: the last one that it has trained; None if it is not known.
        total_steps: how many it was to train; None if it is not known.

    Returns:
        "" where no limit is known, and where the run stopped before: a resume alone goes on with it.
    """
    if step is not None and total_steps is not None and step < total_steps:
        return ""
    steps, epochs = trainer.get("max_steps"), trainer.get("max_epochs")
    by_steps = steps is not None and (epochs is None or total_steps is None or steps == total_steps)
    name, limit = ("max_steps", steps) if by_steps else ("max_epochs", epochs)
    passed = step // total_steps if step is not None and total_steps else 1
    return f"trainer.{name}={(passed + 1) * limit}" if isinstance(limit, int) else ""
