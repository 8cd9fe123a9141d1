"""How a run stands, in one word: one judgement for lists, comparisons, and all that look at a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expkit.ending import Ending

__all__ = ["STALLED_AFTER", "STATES", "sign_of", "standing"]

#: What a run can be. `gone` (its folder is not there) and `unreadable` (nothing in it can be read) are said by readers.
STATES = ("starting", "running", "stalled", "crashed", "finished", "failed", "interrupted", "preempted", "unknown")

#: Seconds without a record after which a run whose process lives counts as stalled: at least so many, and so many times
#: what it usually takes from one record to the next.
STALLED_AFTER = 30.0
_STALLED_TIMES = 10.0
#: Of a run without a status.json: it is taken for running as long as records come.
_QUIET_AFTER = 60.0


def standing(
    status: Mapping[str, Any],
    sign: str = "alive",
    quiet: float | None = None,
    usual_gap: float = 0.0,
    has_results: bool = False,
) -> str:
    """Return one of `STATES`.

    Args:
        status: the run's status.json, {} without one.
        sign: of a run that says it runs, what `expkit.ending.life_sign` returns.
        quiet: seconds since its last record; None without a record.
        usual_gap: seconds from one record to the next, lately.
        has_results: whether there is a results.json, which tells a run without journal and status apart from nothing.
    """
    said = status.get("state")
    if said is None:
        if quiet is None:
            return "finished" if has_results else "unknown"
        return "running" if quiet < _QUIET_AFTER else "unknown"
    if said not in STATES:
        return "unknown"
    if said not in ("starting", "running"):
        return str(said)
    if sign != "alive":
        return "stalled" if sign == "silent" else "crashed"
    if said == "running" and quiet is not None and quiet > max(STALLED_AFTER, _STALLED_TIMES * usual_gap):
        return "stalled"
    return str(said)


def sign_of(ended: Ending | None) -> str:
    """Return the sign of life (`expkit.ending.life_sign`) by which `expkit.ending.ending` has judged a run."""
    return {"silent": "silent", "killed": "dead"}.get(ended.state if ended is not None else "", "alive")
