"""What the small files of a run hold where they are as the runner writes them: anything else is left out on reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["LATEST", "checked"]

#: Seconds since 1970 up to which a time is one: the year 9892.
LATEST = 2.5e11

_BITS = 63


def _whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 1 << _BITS


def _moment(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < LATEST


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _command(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


#: File -> field -> whether a value can be its.
_FIELDS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "config.json": {
        "command": _command,
        "config": _mapping,
        "git_hash": _text,
        "overrides": _list,
        "parent": _mapping,
        "resumes": _list,
        "timestamp": _text,
    },
    "status.json": {
        **dict.fromkeys(("state", "error", "host", "scheduler", "signal", "started"), _text),
        **dict.fromkeys(("step", "total_steps", "restarts", "pid", "heartbeat"), _whole),
        **dict.fromkeys(("forecast", "machine", "metrics", "slurm", "trackers", "unwritten"), _mapping),
        "ended_before": _list,
        "heartbeat_time": _moment,
    },
    "results.json": {"final_metrics": _mapping, "generation_samples": _list, "training_history": _list},
}


def checked(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file holds without fields that cannot be what their name says; those it does not know stay.

    Args:
        name: of the file.
        content: the object in it.
    """
    fields = _FIELDS.get(name, {})
    return {key: value for key, value in content.items() if key not in fields or fields[key](value)}
