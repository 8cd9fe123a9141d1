"""A run read to its end at once, for who does not follow it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expkit.errors import UserError
from expkit.experiment import RunDir
from expkit.plots.curve import Curve
from expkit.reading.feed import RunFeed
from expkit.reading.history import read_results
from expkit.record import RESERVED

__all__ = ["read_whole"]


def read_whole(run: RunDir) -> tuple[RunFeed, dict[str, Any]]:
    """Return a run's files, read, and its results.json, {} without it.

    A final metric of results.json that has no curve is one value at the last step. Of a run that says it runs, or was
    killed, there are no final metrics: what results.json says is older than the journal.

    Raises:
        UserError: its files cannot be read.
    """
    feed = RunFeed(run)
    try:
        feed.refresh()
    except OSError as error:
        raise UserError(f"{run.root}: {error.strerror or error}") from None
    finally:
        feed.close()
    results = _results(run.results)
    if feed.status.get("state") in ("starting", "running"):
        results.pop("final_metrics", None)
    _add_final(feed, results)
    return feed, results


def _add_final(feed: RunFeed, results: Mapping[str, Any]) -> None:
    final = results.get("final_metrics")
    for name, value in final.items() if isinstance(final, dict) else ():
        if type(value) in (int, float) and name not in feed.curves and name not in RESERVED:
            feed.curves[name] = Curve([feed.last.get("step", 0)], [float(value)])
            feed.last[name] = float(value)


def _results(path: Path) -> dict[str, Any]:
    try:
        return read_results(path) if path.exists() else {}
    except UserError:
        return {}
