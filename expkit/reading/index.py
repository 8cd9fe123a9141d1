"""The sidecar index of a journal: its curves so far, and the place up to which they were read.

A million records are read in seconds; what was read once is there at once. The index is a copy: it is made anew if it
is missing, damaged, of another version, or the journal does not have any more what it was made of.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from expkit.arrays import load_arrays
from expkit.files import atomic_writer
from expkit.plots.curve import Curve

__all__ = ["Index", "load_index", "save_index"]

_VERSION = 2


@dataclass(frozen=True, slots=True)
class Index:
    """What was read of a journal.

    Attributes:
        place: of the reader, see `JournalReader.place`.
        records: how many entries.
        broken: how many lines could not be read.
        last: metric -> its last value.
        recent: (step, time) of the last entries.
        curves: metric -> its curve.
    """

    place: Mapping[str, Any]
    records: int
    broken: int
    last: Mapping[str, float]
    recent: Sequence[tuple[int, float]]
    curves: Mapping[str, Curve]


def load_index(journal: Path) -> Index | None:
    """Return the index of a journal, or None if there is none that can be used."""
    for path in _places(journal):
        with contextlib.suppress(Exception):  # it is a copy: whatever is wrong with it, the journal is read
            return _load(path)
    return None


def _load(path: Path) -> Index:
    arrays = load_arrays(path)
    plain = orjson.loads(arrays["plain"].tobytes())
    if plain["version"] != _VERSION:
        raise ValueError("of another version")
    curves = {
        name: Curve.from_state(state, np.array(arrays[str(number)], float).reshape(6, -1))
        for number, (name, state) in enumerate(plain["curves"].items())
    }
    place = {"offset": int(plain["place"]["offset"]), "before": str(plain["place"]["before"])}
    recent = [(int(step), float(moment)) for step, moment in plain["recent"]]
    return Index(place, int(plain["records"]), int(plain["broken"]), dict(plain["last"]), recent, curves)


def save_index(journal: Path, index: Index) -> bool:
    """Keep an index beside its journal, or in the user's cache folder. Return whether it is kept."""
    states = {name: curve.state() for name, curve in index.curves.items()}
    plain = {
        "version": _VERSION,
        "place": index.place,
        "records": index.records,
        "broken": index.broken,
        "last": index.last,
        "recent": index.recent,
        "curves": {name: state for name, (state, _) in states.items()},
    }
    arrays: dict[str, Any] = {str(number): table for number, (_, table) in enumerate(states.values())}
    arrays["plain"] = np.frombuffer(orjson.dumps(plain), np.uint8)
    for path in _places(journal):
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_writer(path, durable=False) as file:
                np.savez(file, **arrays)
            return True
    return False


def _places(journal: Path) -> list[Path]:
    """Return where an index may be."""
    places = [journal.with_name(f"{journal.stem}.index.npz")]
    with contextlib.suppress(RuntimeError):  # nobody's home: a container's user, say
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        name = hashlib.blake2b(os.fsencode(journal.resolve()), digest_size=12).hexdigest()
        places.append(cache / "expkit" / "monitor" / f"{name}.npz")
    return places
