"""The columns of a list of runs: its own ones, keys of configurations, metrics."""

from __future__ import annotations

import difflib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from expkit.errors import UserError
from expkit.listing.entry import RunEntry
from expkit.nested import MISSING, flatten
from expkit.spans import span
from expkit.telling import telling_rank

__all__ = ["AGES", "BUILT_IN", "TIMES", "check_names", "main_metric", "shown", "value_of"]

#: Column -> its value. Times are seconds.
BUILT_IN: Mapping[str, Callable[[RunEntry], Any]] = {
    "run": lambda run: run.name,
    "state": lambda run: run.state,
    "step": lambda run: run.step,
    "total_steps": lambda run: run.total_steps,
    "progress": lambda run: run.step / run.total_steps if run.step is not None and run.total_steps else None,
    "started": lambda run: run.started,
    "active": lambda run: run.active or None,
    "duration": lambda run: run.duration,
    "restarts": lambda run: run.restarts,
    "host": lambda run: run.host,
    "seed": lambda run: run.seed,
    "overrides": lambda run: " ".join(run.overrides) or None,
    "problem": lambda run: run.problem or None,
    "path": lambda run: run.root,
}
#: Those that hold a moment, in seconds since 1970: people read, and filter by, how long ago that is.
AGES = ("started", "active")
TIMES = (*AGES, "duration")

_CLOCKS_DIFFER = 60.0  # seconds, between machines
_ENOUGH = 0.25  # of the runs that have the most frequent metric: how many must have one for it to be the main one
_LOOKED_AT = 200  # runs, for the names in an error message


def value_of(run: RunEntry, name: str) -> Any:
    """Return what a run has in a column; MISSING where it has nothing of this name."""
    if name in BUILT_IN:
        return BUILT_IN[name](run)
    metrics = run.metrics if run.status.get("metrics") else {}
    if name in metrics:
        return math.nan if metrics[name] is None else metrics[name]
    found = run.config_value(name)
    return run.metric(name) if found is MISSING else found


def check_names(names: Iterable[str], runs: Sequence[RunEntry], option: str) -> None:
    """Refuse a column that no run has.

    Args:
        names: of columns.
        runs: that are listed.
        option: that they were typed behind, for the message.

    Raises:
        UserError: no run has such a key or metric; the message names what was probably meant.
    """
    for name in names:
        if name in BUILT_IN or not runs or any(value_of(run, name) is not MISSING for run in runs):
            continue
        known = list(BUILT_IN)
        for run in runs[:_LOOKED_AT]:
            known += [*run.metrics, *run.final_metrics, *flatten(run.resolved)]
        endings = sorted({each for each in known if each.endswith(f".{name}")})
        close = endings or difflib.get_close_matches(name, dict.fromkeys(known), n=3)
        meant = f"did you mean {' or '.join(close[:3])}?" if close else f"columns are {', '.join(BUILT_IN)}"
        more = "" if close else ", keys of the configuration (optimizer.lr) and metrics (val_loss)"
        raise UserError(f"{option} {name}: no run here has it; {meant}{more}")


def main_metric(runs: Sequence[RunEntry]) -> str | None:
    """Return the metric that tells most of these runs: its best value if one has that, its last one otherwise."""
    counts = Counter(name for run in runs for name in run.metrics)
    usual = max((count for name, count in counts.items() if not name.startswith("final/")), default=0)
    names = [name for name, count in counts.items() if count >= usual * _ENOUGH and not name.startswith("final/")]
    if not names:
        return None
    main = min(names, key=lambda name: (telling_rank(name), not name.endswith("loss"), -counts[name], name))
    best = f"best_{main}"
    return best if f"final/{best}" in counts or any(best in run.final_metrics for run in runs) else main


def shown(name: str, value: Any, now: float | None = None) -> Any:
    """Return a value of a column as people read it."""
    if name in TIMES and isinstance(value, int | float):
        if name == "duration":
            return span(value)
        ago = (time.time() if now is None else now) - value
        if -_CLOCKS_DIFFER < ago < 30 * 86400:
            return f"{span(max(0.0, ago))} ago"
        try:
            return f"{datetime.fromtimestamp(value):%Y-%m-%d}"
        except (ValueError, OverflowError, OSError):  # no moment of any calendar
            return str(value)
    if name == "progress" and isinstance(value, float):
        return f"{value:.0%}"
    return value
