"""What each rank has of its own goes on with it; of another number of ranks, nothing is lost or counted twice."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from expkit.dist import Dist
from expkit.rng import rng_state, set_rng_state
from expkit.series import StepSeries
from tests.train.helpers import CPU
from train.rankstate import restore_own
from train.runner import Runner
from train.update import AVERAGED

NAMES = ("loss", "correct")


def pending(*rows: tuple[float, float, int]) -> dict[str, Any]:
    """Return the state of a series with (loss, correct, samples) of each step."""
    series = StepSeries(NAMES, CPU, averaged=AVERAGED)
    for *values, count in rows:
        series.push([torch.tensor(value) for value in values], count)
    return series.state_dict()


#: Two steps of three ranks: their mean losses are 3 and infinite.
SERIES = (
    pending((1.0, 2.0, 2), (math.inf, 1.0, 2)),
    pending((4.0, 1.0, 2), (1.0, 1.0, 1)),
    pending((4.0, 0.0, 2), (1.0, 1.0, 1)),
)


@pytest.fixture
def state() -> dict[str, Any]:
    """What of a checkpoint of three ranks is read here."""
    before = rng_state()
    own = []
    for seed in (10, 11, 12):
        torch.manual_seed(seed)
        own.append(rng_state())
    set_rng_state(before)
    return {
        "step": 7,
        "rng_state": own[0],
        "sampler_state": {"series": SERIES[0]},
        "ranks": [{"rng_state": own[rank], "series": SERIES[rank]} for rank in (1, 2)],
    }


def restored(state: dict[str, Any], dist: Dist) -> tuple[Any, float]:
    """Return a runner of the rank `dist` after the resume, and the next random number."""
    runner = SimpleNamespace(
        dist=dist, config=SimpleNamespace(seed=0, deterministic=False), pending_series=state["sampler_state"]["series"]
    )
    before = rng_state()
    restore_own(cast("Runner", runner), state)
    number = float(torch.rand(()))
    set_rng_state(before)
    return runner, number


def test_the_same_ranks_have_what_was_theirs(state: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    for rank in range(3):
        runner, number = restored(state, Dist(rank, 3))
        assert runner.pending_series is SERIES[rank]
        assert number == float(torch.rand((), generator=torch.Generator().manual_seed(10 + rank)))
    assert caplog.messages == []


class Others(Dist):
    """A rank to whose tables those of ranks before it are added."""

    def __init__(self, rank: int, world: int, tables: list[torch.Tensor]) -> None:
        super().__init__(rank, world)
        self._tables = tables

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self._tables.append(tensor.clone())
        return tensor.copy_(torch.stack(self._tables).sum(dim=0))


@pytest.mark.parametrize("world", [1, 2, 5])
def test_other_ranks_have_together_what_was_not_recorded(
    world: int, state: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    tables: list[torch.Tensor] = []
    numbers = set()
    for rank in range(world):
        runner, number = restored(state, Dist(rank, world))
        assert restored(state, Dist(rank, world))[1] == number, "the same at every resume"
        numbers.add(number)
        series = StepSeries(NAMES, CPU, averaged=AVERAGED)
        series.load_state_dict(runner.pending_series)
        table, counts = series.drain(Others(rank, world, tables))
    assert table == {"loss": [3.0, math.inf], "correct": [3.0, 3.0]}
    assert counts == [6, 4]
    assert len(numbers) == world, "each rank draws numbers of its own"
    assert f"resumed with {world} process(es) instead of 3" in caplog.text
