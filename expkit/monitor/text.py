"""What all faces say in words."""

from __future__ import annotations

from expkit.reading.screen import Screen
from expkit.reading.state import RunState

__all__ = ["heading_line", "state_line"]


def state_line(state: RunState) -> str:
    """Return how a run stands in one line: badge, step, speed, time to the end."""
    of = f" of {state.total_steps:,}" if state.total_steps is not None else ""
    parts = [
        state.state + (f" ({state.text})" if state.text else ""),
        f"step {state.step:,}{of}" if state.step is not None else "",
        f"epoch {state.epoch:,.4g}" if state.epoch is not None else "",
        f"{state.steps_per_sec:,.3g} it/s" if state.steps_per_sec is not None else "",
        state.eta,
    ]
    return "  ·  ".join(part for part in parts if part)


def heading_line(screen: Screen) -> str:
    """Return what stands below the heading: how the run stands, or how many do how, and the notes."""
    if len(screen.runs) == 1:
        said = state_line(screen.runs[0])
    else:
        counts: dict[str, int] = {}
        for run in screen.runs:
            counts[run.state] = counts.get(run.state, 0) + 1
        said = ", ".join(f"{count} {state}" for state, count in counts.items())
    return "  ·  ".join([said, *screen.notes])
