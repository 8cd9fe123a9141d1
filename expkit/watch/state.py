"""What a watcher leaves for the one after it: where it stood in its source, and what its detectors knew there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expkit.detectors.base import Detector
from expkit.files import write_bytes
from expkit.lenient_json import parse_json
from expkit.opening import read_whole

__all__ = ["detector_states", "load_detectors", "read_state", "write_state"]

_VERSION = 1


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the file atomically.

    Raises:
        OSError: the disk refuses.
    """
    # Not orjson: the limit of a guard may be infinite.
    write_bytes(path, json.dumps({"version": _VERSION, **state}).encode() + b"\n", durable=False)


def read_state(path: Path) -> dict[str, Any] | None:
    """Return what was written; None if there is nothing that can be used. Then the watcher begins at the start."""
    try:
        state = parse_json(read_whole(path))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and state.get("version") == _VERSION else None


def detector_states(detectors: Mapping[str, Detector]) -> dict[str, Any]:
    """Return the state of each detector, and of the guards that some have."""
    states = {}
    for name, detector in detectors.items():
        guard = detector.guard() if "skip" in detector.respond else None
        states[name] = [detector.state_dict(), guard.state_dict() if guard is not None else None]
    return states


def load_detectors(detectors: Mapping[str, Detector], states: Mapping[str, Any]) -> None:
    """Take back what `detector_states` returned."""
    for name, detector in detectors.items():
        own, of_guard = states[name]
        detector.load_state_dict(own)
        guard = detector.guard() if of_guard is not None else None
        if guard is not None:
            guard.load_state_dict(of_guard)
