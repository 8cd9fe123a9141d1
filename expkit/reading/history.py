"""The history in a results.json as entries of a journal: for directories that have nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from expkit.files import read_json
from expkit.lenient_json import parse_json
from expkit.opening import read_whole
from expkit.record import RESERVED

__all__ = ["history_entries", "read_history", "read_results"]

#: What the entries of a history hold in groups, and how these names begin in a journal.
_PREFIXES = {"train": "train_", "test": "val_", "val": "val_", "validation": "val_", "diagnostics": ""}
_RENAMED = {"test_loss": "val_loss", "test_accuracy": "val_accuracy"}


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the entries that a results.json holds.

    Raises:
        UserError: (a ValueError) it is no JSON object; it is being written, say.
    """
    return history_entries(read_results(path))


def read_results(path: Path) -> dict[str, Any]:
    """Return what a results.json holds. NaN and infinities, which Python's json writes, are read too.

    Raises:
        UserError: (a ValueError) there is none, it cannot be read, or it holds something else.
    """
    try:
        return read_json(path)
    except UserError:
        try:
            found = parse_json(read_whole(path))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise
    return found


def history_entries(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of `training_history`, in the order of their steps; of their epochs, if they tell no steps.

    Names become those of a journal: train.loss `train_loss`, test.loss `val_loss`, and diagnostics keep theirs. What is
    no number is left out; a diagnostic that is null, which says that it is undefined there, is NaN.
    """
    history = results.get("training_history")
    entries = []
    rows = [row for row in history if isinstance(row, Mapping)] if isinstance(history, list) else []
    for place, row in enumerate(rows, 1):
        step = _first(row, ("step", "global_step", "epoch"), place)
        values: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, Mapping):
                values |= _prefixed(name, _undefined(value) if name == "diagnostics" else value)
            elif name not in RESERVED and name != "global_step":
                values[_RENAMED.get(name) or name] = value
        numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
        epoch = row.get("epoch")
        entries.append({"step": step, **({"epoch": epoch} if _is_whole(epoch) else {}), **numbers})
    return sorted(entries, key=lambda entry: entry["step"])


def _undefined(diagnostics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in diagnostics.items()}


def _prefixed(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    prefix = _PREFIXES.get(group, f"{group}/")
    return {name if name.startswith(prefix) else prefix + name: value for name, value in values.items()}


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 1 << 63


def _first(row: Mapping[str, Any], names: Sequence[str], otherwise: int) -> int:
    found = [row[name] for name in names if _is_whole(row.get(name))]
    return found[0] if found else otherwise
