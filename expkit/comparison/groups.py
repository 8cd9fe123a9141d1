"""Which runs are summarized together, and what their groups are called."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expkit.comparison.configs import is_seed, mark_of, short_names, value_in_label, written_value
from expkit.comparison.run_data import RunData
from expkit.errors import UserError
from expkit.nested import MISSING
from expkit.printable import printable

__all__ = ["LONGEST_LABEL", "MOST_IN_LABEL", "Group", "grouped", "near"]

MOST_IN_LABEL = 3
LONGEST_LABEL = 60  # characters


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that are summarized together."""

    label: str
    runs: Sequence[RunData]


def grouped(
    runs: Sequence[RunData],
    configs: Sequence[Mapping[str, Any]],
    found: Mapping[str, Sequence[Any]],
    key: str,
    notes: list[str],
) -> list[Group]:
    """Return the groups of runs, in the order of their first ones.

    Args:
        runs: all of them.
        configs: the flat configuration of each, without its identity.
        found: in what these differ.
        key: `seed`, or a key of the configuration, or the end of one.
        notes: gets what there is to say.

    Raises:
        UserError: there is no such key, or it is the end of several.
    """
    if key == "seed":
        keys = [name for name in found if not is_seed(name)]
        if any(run.seed is None for run in runs):
            notes.append("of some runs the seed is not known: their values are in no pair")
    else:
        keys = [_resolve(key, configs)]
    groups: dict[bytes, list[RunData]] = {}
    chosen: dict[bytes, dict[str, Any]] = {}
    for run, config in zip(runs, configs, strict=True):
        values = {name: config.get(name, MISSING) for name in keys}
        mark = mark_of(values) if config or key != "seed" else b""  # who knows in what else than its seed it differs
        groups.setdefault(mark, []).append(run)
        chosen.setdefault(mark, values)
    known = [values for mark, values in chosen.items() if mark]
    labels = iter(_group_labels(known, {} if key == "seed" else {keys[0]: key}))
    return [Group(next(labels) if mark else "configuration not known", members) for mark, members in groups.items()]


def _group_labels(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[str]:
    """Return what groups are called: by all in which they differ if that is little, else by what tells them apart."""
    keys = list(rows[0]) if rows else []
    if len(keys) > MOST_IN_LABEL:
        keys = _telling_apart(rows)
    short = {**short_names(keys), **names}

    def labels(write: Callable[[str, Any], str]) -> list[str]:
        return [", ".join(f"{short[name]} {write(name, row[name])}" for name in keys) or "all runs" for row in rows]

    # Two classes may have one name, and there is 2 and "2".
    for made in map(labels, (value_in_label, lambda _, value: written_value(value), lambda _, value: repr(value))):
        if len(set(made)) == len(made) and max(map(len, made), default=0) <= LONGEST_LABEL:
            return made
    return [f"group {number}" for number in range(1, len(rows) + 1)]


def _telling_apart(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a few keys by which rows are told apart: those with the shortest values that split them further."""
    chosen: list[str] = []
    apart = 1
    for key in sorted(rows[0], key=lambda key: (max(len(written_value(row[key])) for row in rows), len(key))):
        split = len({mark_of({each: row[each] for each in [*chosen, key]}) for row in rows})
        if split > apart:
            chosen, apart = [*chosen, key], split
    return chosen


def _resolve(key: str, configs: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole key of which somebody has typed the end."""
    known = sorted({name for config in configs for name in config})
    if key in known:
        return key
    if f"{key}._target_" in known:  # task, optimizer: a selected option
        return f"{key}._target_"
    matches = [name for name in known if name.endswith(f".{key}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"--group-by {key}: it is the end of several keys; write one of {', '.join(matches[:5])}")
    raise UserError(f"--group-by {key}: no run has such a key in its configuration{near(key, ['seed', *known])}")


def near(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about a name that there is not: those that are like it."""
    close = list(map(printable, difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:5]))
    return f"; there are {', '.join(close)}" if close else ""
