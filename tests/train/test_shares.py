"""Who trains on which samples of a batch: each sample once, in pieces that weigh as much as they hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

from expkit.dist import Dist
from train.data import Batches
from train.shares import StepBatches, in_step, is_shared_out, shares_of

DATA = TensorDataset(torch.arange(8.0))
X = torch.arange(10.0).reshape(5, 2)


def ranks(world: int) -> list[Dist]:
    return [Dist(rank, world) for rank in range(world)]


@pytest.mark.parametrize(
    ("n", "world", "pieces", "expected"),
    [
        pytest.param(4, 1, 1, [[([0, 1, 2, 3], 1.0)]], id="alone"),
        pytest.param(8, 2, 2, [[([0, 1], 0.5), ([2, 3], 0.5)], [([4, 5], 0.5), ([6, 7], 0.5)]], id="even"),
        pytest.param(5, 2, 1, [[([0, 1], 0.8)], [([2, 3, 4], 1.2)]], id="uneven"),
        pytest.param(3, 2, 2, [[([0], 2 / 3), ([0], 0.0)], [([1], 2 / 3), ([2], 2 / 3)]], id="fewer than pieces"),
        pytest.param(1, 3, 1, [[([0], 0.0)], [([0], 0.0)], [([0], 3.0)]], id="fewer than processes"),
    ],
)
def test_shares_of_an_update(n: int, world: int, pieces: int, expected: list[list[tuple[list[int], float]]]) -> None:
    found = [shares_of(range(n), dist, pieces) for dist in ranks(world)]
    assert [[indices for indices, _ in each] for each in found] == [[i for i, _ in each] for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert [weight for _, weight in one] == pytest.approx([weight for _, weight in other])


def loader(kind: str, rank: int) -> Any:
    """Return a loader that gives each of two processes every other sample, in batches of 2."""
    half = TensorDataset(DATA.tensors[0][rank::2])
    if kind == "data set":
        half.shared_out = True  # type: ignore[attr-defined]
        return DataLoader(half, 2)
    if kind == "loader":
        found = DataLoader(half, 2)
        found.shared_out = True  # type: ignore[attr-defined]
        return found
    sampler = DistributedSampler(DATA, num_replicas=2, rank=rank, shuffle=False)
    if kind == "sampler":
        return DataLoader(DATA, 2, sampler=sampler)
    return DataLoader(DATA, batch_sampler=BatchSampler(sampler, 2, drop_last=False))


@pytest.mark.parametrize("kind", ["data set", "loader", "sampler", "batch sampler"])
def test_a_loader_that_shares_out_by_itself_is_left_as_it_is(kind: str) -> None:
    for dist in ranks(2):
        own = loader(kind, dist.rank)
        assert is_shared_out(own)
        steps = [*Batches(own, 4, dist=dist).epoch(0)]
        mine = DATA.tensors[0][dist.rank :: 2]
        assert [[(x.tolist(), weight) for (x,), weight in step.pieces] for step in steps] == [
            [(mine[:2].tolist(), 1.0)],
            [(mine[2:].tolist(), 1.0)],
        ]


class Heard(Dist):
    """A rank of two that has heard what the other will say."""

    def __init__(self, *said: int) -> None:
        super().__init__(0, 2)
        self.said = [*said]

    def any_bits(self, mask: int) -> int:
        return mask | self.said.pop(0)


@pytest.mark.parametrize(
    ("mine", "others", "weights"),
    [(1, (1, 1, 1, 0), [1.0, 0.0, 0.0]), (3, (1, 0, 0, 0), [1.0] * 3), (2, (1, 1, 0), [1.0] * 2)],
    ids=["fewer", "more", "as many"],
)
def test_a_rank_with_fewer_batches_goes_on_with_stand_ins(
    mine: int, others: tuple[int, ...], weights: list[float]
) -> None:
    dist = Heard(*others)
    updates = [StepBatches([(X, 1.0)], 5, number == mine - 1) for number in range(mine)]
    steps = [*in_step(updates, dist)]
    assert [weight for step in steps for _, weight in step.pieces] == weights
    assert dist.said == [], "both have spoken as often"
