"""What each tracker holds of a run, read from its own files, held against the journal."""

from __future__ import annotations

import json
import math
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from expkit.journal import read_journal, stable
from expkit.wandb_data.offline import OfflineRun
from tests.soak.place import Place

__all__ = ["COPIES", "lacking"]

#: (step, metric) -> the values that a tracker has of it, one for each time that it was sent.
Held = dict[tuple[int, str], list[float]]

#: How trackio stores what JSON has no numbers for.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NO_METRICS = frozenset({"step", "epoch", "time", "series", "details"})


def lacking(place: Place, name: str) -> tuple[int, list[str]]:
    """Return how many values of the journal a tracker is to have, and what is wrong with those that it has."""
    held = COPIES[name](place)
    rounded = _single if name == "tensorboard" else float
    expected, steps, names = 0, set(), set()
    missing, twice, wrong = [list[int]() for _ in range(3)]
    for entry in read_journal(place.run / "logs" / "metrics.jsonl"):
        steps.add(entry["step"])
        for metric, value in stable(entry).items():
            if metric in _NO_METRICS:
                continue
            expected += 1
            names.add(metric)
            found = held.get((entry["step"], metric), [])
            if not found:
                missing.append(entry["step"])
            elif len(found) > 1:
                twice.append(entry["step"])
            elif not _same(found[0], rounded(value)):
                wrong.append(entry["step"])
    strange = [step for step, metric in held if metric in names and step not in steps]
    said = {"missing": missing, "twice": twice, "another value": wrong, "not in the journal": strange}
    return expected, [f"{what}: {_range(found)}" for what, found in said.items() if found]


def _range(steps: list[int]) -> str:
    return f"{len(set(steps))} steps from {min(steps)} to {max(steps)}"


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _single(value: float) -> float:
    (rounded,) = struct.unpack("f", struct.pack("f", value))
    return float(rounded)


def _gathered(rows: Iterator[tuple[int, Mapping[str, Any]]]) -> Held:
    held: Held = defaultdict(list)
    for step, row in rows:
        for name, value in row.items():
            number = (
                value if isinstance(value, int | float) else _NOT_FINITE.get(value) if isinstance(value, str) else None
            )
            if number is not None and name not in _NO_METRICS:
                held[step, name].append(float(number))
    return held


def _wandb(place: Place) -> Held:
    files = sorted(place.run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.parent.stat().st_mtime)
    rows = OfflineRun(files).history
    own = ("_step", "_timestamp", "_runtime", "_wandb")
    return _gathered((row["_step"], {name: row[name] for name in row if not name.startswith(own)}) for row in rows)


def _trackio(place: Place) -> Held:
    (database,) = place.trackio.glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT step, metrics FROM metrics").fetchall()
    return _gathered((step, json.loads(metrics)) for step, metrics in rows)


def _tensorboard(place: Place) -> Held:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place.run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    held: Held = defaultdict(list)
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            if name not in _NO_METRICS:
                held[event.step, name].append(event.value)
    return held


COPIES: dict[str, Callable[[Place], Held]] = {"wandb": _wandb, "trackio": _trackio, "tensorboard": _tensorboard}
