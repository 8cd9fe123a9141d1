"""Runs looked at: one reader and one model of the screen, behind all faces."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.reading.feed import RunFeed
from expkit.reading.screen import Screen, View, compose, find_group, missing_metrics
from expkit.reading.state import RunState, StateReader

__all__ = ["Runs"]


class Runs:
    """One run or several to look at: curves, alerts, how they stand. It reads only, and only what is new.

    Args:
        run: a run directory, or several. What is to be seen of it need not be there yet.
        view: what is to be seen; see `View`.
        index: whether a sidecar index of each journal is used and kept (`logs/metrics.index.npz`).

    Raises:
        UserError: (a ValueError) there is no such directory.
    """

    def __init__(self, run: Path | str | Sequence[Path | str], view: View | None = None, index: bool = True) -> None:
        paths = [Path(run)] if isinstance(run, str | Path) else [Path(each) for each in run]
        if not paths:
            raise UserError("TrainingMonitor: name a run directory at least")
        for path in paths:
            if not path.is_dir():
                raise UserError(f"{path}: there is no such run directory")
        self.view = view or View()
        self.feeds = [RunFeed(RunDir(path), index, name) for path, name in zip(paths, _names(paths), strict=True)]
        self._states = [StateReader(feed) for feed in self.feeds]
        self._first = 0  # which one is read first

    def refresh(self, within: float = math.inf) -> bool:
        """Read what is new, for about so many seconds at most. Return whether there was anything.

        Raises:
            OSError: files of a run are there, and cannot be read now. The other runs are read all the same.
        """
        until = time.monotonic() + within
        changed, failures = False, []
        for feed in (*self.feeds[self._first :], *self.feeds[: self._first]):
            try:
                changed |= feed.refresh(max(0.0, until - time.monotonic()))
            except OSError as error:
                failures.append(error)
            if time.monotonic() >= until:  # whose turn it is now comes first the next time
                self._first = (self.feeds.index(feed) + 1) % len(self.feeds)
                break
        if failures:
            raise failures[0]
        return changed

    def states(self) -> list[RunState]:
        """Return how each run stands."""
        return [reader.read() for reader in self._states]

    def screen(self, view: View | None = None) -> Screen:
        """Return what is to be seen now."""
        return compose(self.feeds, self.states(), view or self.view)

    def missing(self) -> tuple[list[str], bool]:
        """Return what there is to say of names in `view.metrics` that no metric has; whether none has a metric."""
        wanted = self.view.metrics or []
        notes = missing_metrics(self.feeds, wanted)
        return notes, bool(wanted) and not any(find_group(each, self.feeds, [])[1] for each in wanted)

    def to_json(self) -> dict[str, Any]:
        """Return how the runs stand as plain JSON values, as `expkit monitor --json` prints them.

        Of last values there are those in `view.metrics`, if any is named there.
        """
        states = self.states()
        if self.view.metrics:
            wanted = {name for each in self.view.metrics for name in find_group(each, self.feeds, [])[1]}
            states = [
                replace(state, last={name: value for name, value in state.last.items() if name in wanted})
                for state in states
            ]
        return {"runs": [state.to_json() for state in states]}

    def close(self) -> None:
        """Close all files."""
        for feed in self.feeds:
            feed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _names(paths: Sequence[Path]) -> list[str]:
    """Return what to call runs: by their ids; by the ends of their paths, where several have the same."""
    parts = [path.resolve().parts for path in paths]
    different = len(set(parts))
    length = next(length for length in range(1, 1 + max(map(len, parts))) if _count(parts, length) == different)
    return ["/".join(each[-length:]) for each in parts] if length > 1 else ["" for _ in paths]


def _count(parts: Sequence[tuple[str, ...]], length: int) -> int:
    """Return how many different ends of so many parts there are."""
    return len({each[-length:] for each in parts})
