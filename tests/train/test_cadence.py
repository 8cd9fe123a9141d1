"""Plots are drawn less often where looking at the model takes more than its share of the time."""

from __future__ import annotations

import pytest

from expkit.schedule import Progress
from tests.expkit.plots.helpers import said
from tests.expkit.plots.sleepy import Counting
from train import cadence
from train.cadence import Cadence


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(cadence, "time", made)
    return made


def run(plots: Cadence, clock: Clock, steps: int, costs: dict[str, float], budget: float | None = 0.05) -> list[int]:
    """Train with steps of 10 ms, and return where the plot called dear was due."""
    drawn = []
    for step in range(1, steps + 1):
        clock.now += 0.01
        due = plots.due(Progress(step=step))
        for name in due:
            with plots.timed(name):
                clock.now += costs[name]
        plots.note(due, budget)
        drawn += [step] if "dear" in due else []
    return drawn


def test_an_interval_grows_until_what_it_takes_is_within_its_share(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    plots = Cadence({"dear": Counting(), "cheap": Counting()}, total_steps=900)  # every 100 steps, 1 second
    drawn = run(plots, clock, 4000, {"dear": 0.5, "cheap": 0.001})
    late = [step for step in drawn if step > 1000]
    assert drawn[:3] == [100, 200, 1000] and 0 < 0.5 * len(late) <= 0.05 * 30, "of the last 30 seconds"
    assert said(caplog)[0].startswith(
        "plots.dear: drawn every 1000 steps from here on, not every 100: what it needs took more"
    )


@pytest.mark.parametrize(
    ("interval", "budget", "cost"), [(100, 0.05, 0.5), ("auto", None, 0.5), ("auto", 0.05, 0.04)], ids=str
)
def test_what_was_typed_what_has_no_limit_and_what_is_quick_stays(
    clock: Clock, caplog: pytest.LogCaptureFixture, interval: int, budget: float | None, cost: float
) -> None:
    plots = Cadence({"dear": Counting(viz_interval=interval)}, total_steps=900)
    assert run(plots, clock, 3000, {"dear": cost}, budget) == list(range(100, 3001, 100))
    assert not caplog.records


def test_a_first_time_that_loads_a_library_says_nothing_about_the_next(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    plots = Cadence({"dear": Counting()}, total_steps=900)
    run(plots, clock, 100, {"dear": 3.0})
    assert plots.quick(["dear"], 5.0) == ["dear"] and plots.quick(["dear"], 2.0) == []
    assert len(run(plots, clock, 1000, {"dear": 0.01})) == 10 and not caplog.records
