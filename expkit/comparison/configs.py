"""In what configurations differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from expkit.errors import UserError
from expkit.listing.selected import option_of
from expkit.nested import MISSING

__all__ = [
    "differences", "find_label", "is_seed", "mark_of", "seed_of", "short_names", "value_in_label", "without_identity",
    "written_value",
]  # fmt: skip


_TARGET = "_target_"  # the key of a selected option that says its class

#: What every run has of its own, and that says nothing of what it did.
_IDENTITY = frozenset({"run.id", "run.dir", "run.name", "run.outputs", "run.notes", "resume"})


def without_identity(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat configuration without a run's name, id and folder."""
    return {key: value for key, value in flat.items() if key not in _IDENTITY}


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return key -> its value in each configuration, MISSING where it has none, of keys that are not equal in all."""
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [config.get(key, MISSING) for config in configs]
        if any(not _equal(value, values[0]) for value in values[1:]):
            found[key] = values
    return found


def mark_of(values: Mapping[str, Any]) -> bytes:
    """Return the same bytes for values that are the same: for 1 and 1.0, not for 1 and True, nor 1 and "1"."""
    return orjson.dumps(_whole(values), default=lambda value: [repr(value)], option=orjson.OPT_SORT_KEYS)


def seed_of(value: Any) -> int | float | str | None:
    """Return a seed that runs can be paired by; None of anything else, a list say."""
    return value if isinstance(value, int | float | str) else None


def written_value(value: Any) -> str:
    """Return a value of a configuration as YAML writes it, with all its digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def value_in_label(key: str, value: Any) -> str:
    """Return a value of a configuration as labels have it: of a selected option its name, as lists of runs do."""
    group = key.removesuffix(f".{_TARGET}")
    return written_value(value) if group == key or not isinstance(value, str) else option_of(group, value)


def is_seed(key: str) -> bool:
    """Whether a key is a seed: trainer.seed, task.data.seed."""
    return key.rpartition(".")[2] == "seed"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return key -> its shortest ending that no other one has: a.lr is lr unless there is b.lr too.

    The class of a selected option is called by its group: optimizer._target_ is optimizer.
    """
    short = {}
    whole = {key: key.removesuffix(f".{_TARGET}") for key in keys}
    for key, name in whole.items():
        others = [other for other in whole.values() if other != name]
        parts = name.split(".")
        endings = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        short[key] = next(
            (each for each in endings if not any(other == each or other.endswith(f".{each}") for other in others)), name
        )
    return short


def find_label(wanted: str, labels: Sequence[str]) -> str:
    """Return the label of the group that somebody means: of `lr 0.003` the value alone, or `lr=0.003`, is enough.

    Raises:
        UserError: there is no such group, or more than one.
    """
    if not labels:
        raise UserError(f"--baseline {wanted}: there are no groups; say which with --group-by seed, or a key")
    told = wanted.replace("=", " ")
    ends = [
        label for label in labels if label == told or ("," not in label and label.endswith((f" {told}", f".{told}")))
    ]
    found = [label for label in labels if label == wanted] or ends or [each for each in labels if _means(each, told)]
    if len(found) != 1:
        raise UserError(f"--baseline {wanted}: there is no such group; there are: {', '.join(labels)}")
    return found[0]


def _means(label: str, told: str) -> bool:
    """Whether a label is what was told with the number written otherwise: 2 for 2.0, 1e-3 for 0.001."""
    (key, _, value), (name, _, number) = label.rpartition(" "), told.rpartition(" ")
    try:
        return "," not in label and key.endswith(name) and float(value) == float(number)
    except ValueError:
        return False


def _equal(first: Any, second: Any) -> bool:
    """Whether two values are the same: 1 and 1.0 are, 1 and True are not."""
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def _whole(value: Any) -> Any:
    """Return a value in which a float that is a whole number is an integer."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63:
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list | tuple) else value
