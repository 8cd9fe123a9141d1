"""How a run ended each time that it was gone on with: the `ended_before` of its status.json."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from expkit.ending import Ending
from expkit.environment import was_requeued

__all__ = ["endings"]


def endings(before: Mapping[str, Any], ended: Ending | None, rewind: str = "") -> list[dict[str, Any]]:
    """Return how a run ended each time, the newest last: `step`, `time`, `state`, `why`, `slurm`.

    Args:
        before: its status.json, as the one who goes on with it has found it; {} if it was gone.
        ended: how it ended the last time, if that is known.
        rewind: why it goes back, if it has not ended at all.
    """
    known, beat = before.get("ended_before"), before.get("heartbeat_time")
    state, why, step = "unknown", "its status.json was gone", before.get("step")
    if rewind:
        state, why = "rewound", rewind
    elif ended is not None:
        state, why, step = ended.state, ended.why, ended.step
    if state == "killed" and was_requeued():
        why += "; SLURM has started its job again"
    when = datetime.fromtimestamp(beat).astimezone() if isinstance(beat, int | float) else None
    said = {
        "step": step,
        "time": when.isoformat(timespec="seconds") if when is not None else None,
        "state": state,
        "why": why,
        "slurm": before.get("slurm") or {},
    }
    return [*(known if isinstance(known, list) else []), said]
