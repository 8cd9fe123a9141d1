"""Loaders of one's own: reproduced, resumed, and, where they know their place, gone on with there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
)

from expkit.sampler import ResumableSampler
from tests.train.numbered import Numbers, Stream, Unsized, flat, lasts, numbers
from train.data import Batches

# --- loaders of one's own ------------------------------------------------------------------------------------------


def shuffled(kind: str, n: int = 13) -> DataLoader[int]:
    data = Numbers(n)
    if kind == "shuffle":
        return DataLoader(data, batch_size=4, shuffle=True)
    if kind == "sampler":
        return DataLoader(data, batch_size=4, sampler=RandomSampler(data))
    return DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), batch_size=4, drop_last=False))


@pytest.mark.parametrize("kind", ["shuffle", "sampler", "batch_sampler"])
def test_a_shuffling_loader_can_be_reproduced_and_resumed(kind: str) -> None:
    """Its order depends on (seed, epoch), wherever in the loader the shuffling happens."""

    def order(seed: int, epoch: int, skip: int = 0) -> list[list[int]]:
        torch.rand(1)
        return numbers(Batches(shuffled(kind), batch_size=4, seed=seed), epoch, skip)

    whole = order(1, 2)
    assert sorted(flat(whole)) == list(range(13))
    assert order(1, 2) == whole
    assert order(1, 2, skip=3) == whole[3:]
    assert order(1, 3) != whole
    assert order(2, 2) != whole


def test_a_loader_tells_its_data_set_and_sampler_the_epoch() -> None:
    """A DistributedSampler gives the same order in each epoch unless told."""
    data = Numbers(12)
    seen: list[int] = []
    data.set_epoch = seen.append  # type: ignore[attr-defined]
    sampler = DistributedSampler(data, num_replicas=2, rank=0)
    batches = Batches(DataLoader(data, batch_size=3, sampler=sampler), batch_size=3)
    assert numbers(batches, 0) != numbers(batches, 1)
    assert seen == [0, 1]


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_batches_of_a_loader_are_accumulated(pieces: int) -> None:
    batches = Batches(DataLoader(Numbers(10), batch_size=2), batch_size=99, pieces=pieces)
    steps = list(batches.epoch(0))
    assert batches.steps == len(steps) == math.ceil(5 / pieces)
    assert all(sum(weight for _, weight in step.pieces) == pytest.approx(1) for step in steps)
    assert flat(numbers(batches, skip=1)) == list(range(2 * pieces, 10))


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_last_batch_of_an_unknown_number_is_known_as_the_last(n: int, pieces: int) -> None:
    batches = Batches(Unsized(n), batch_size=1, pieces=pieces)
    assert batches.steps is None
    updates = math.ceil(n / pieces)
    assert lasts(batches) == [False] * (updates - 1) + [True]
    assert lasts(batches, skip=updates - 1) == [True]
    assert lasts(batches, skip=updates) == []


def test_a_loader_of_a_stream_has_no_length() -> None:
    """As the message about an IterableDataset recommends; DataLoader has `__len__` then, and it raises."""
    batches = Batches(DataLoader(Stream(5), batch_size=2), batch_size=2)
    assert batches.steps is None
    assert numbers(batches) == [[0, 1], [2, 3], [4]]


# --- loaders that know their place ----------------------------------------------------------------------------------


class Counted(Numbers):
    """Notes what is loaded."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.loaded: list[int] = []

    def __getitem__(self, index: int) -> int:
        self.loaded.append(index)
        return index


class Place(Sampler[int]):
    """Another library's sampler that counts what was drawn."""

    def __init__(self, n: int) -> None:
        self.n, self.drawn = n, 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        while self.drawn < self.n:
            self.drawn += 1
            yield self.drawn - 1
        self.drawn = 0

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


class PlaceLoader(DataLoader[int]):
    """What torchdata's StatefulDataLoader promises: the place after the batch that was yielded last."""

    yielded = begin = 0

    def __iter__(self) -> Any:
        self.yielded, self.begin = self.begin, 0
        batches = list(self.batch_sampler)[self.yielded :]
        for indices in batches:
            self.yielded += 1
            yield torch.tensor([self.dataset[index] for index in indices])

    def state_dict(self) -> dict[str, int]:
        return {"yielded": self.yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.begin = state["yielded"]


def knowing(kind: str, data: Dataset[int], workers: int = 0) -> Any:
    if kind == "ours":
        return DataLoader(data, batch_size=4, sampler=ResumableSampler(data, seed=7), num_workers=workers)
    if kind == "batch_sampler":
        return DataLoader(data, batch_sampler=BatchSampler(ResumableSampler(data), 4, False), num_workers=workers)
    if kind == "another":
        return DataLoader(data, batch_size=4, sampler=Place(len(data)), num_workers=workers)
    return PlaceLoader(data, batch_size=4, sampler=RandomSampler(data), num_workers=workers)


KINDS = ["ours", "batch_sampler", "another", "loader"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_loader_that_knows_its_place_goes_on_there_and_draws_nothing_again(kind: str, pieces: int) -> None:
    def batches(data: Dataset[int]) -> Batches:
        return Batches(knowing(kind, data), batch_size=4, pieces=pieces)

    whole = numbers(batches(Numbers(19)), epoch=2)
    assert sorted(flat(whole)) == list(range(19))
    stopped = batches(Numbers(19))
    epoch = stopped.epoch(2)
    next(epoch)
    place = stopped.state_dict()
    assert place is not None
    data = Counted(19)
    resumed = batches(data)
    resumed.load_state_dict(place)
    assert numbers(resumed, 2, skip=1) == whole[1:]
    assert sorted(data.loaded) == sorted(flat(whole[1:]))
    assert numbers(resumed, 3) == numbers(batches(Numbers(19)), 3), "the next epoch is a whole one"


@pytest.mark.parametrize("kind", ["ours", "batch_sampler", "another"])
def test_what_loading_processes_fetch_ahead_is_not_lost(kind: str) -> None:
    def batches() -> Batches:
        return Batches(knowing(kind, Numbers(30), workers=2), batch_size=4)

    whole = numbers(batches(), epoch=1)
    stopped = batches()
    next(stopped.epoch(1))
    place = stopped.state_dict()
    resumed = batches()
    resumed.load_state_dict(place)
    assert (place is None) == (kind == "another"), "it cannot tell what was drawn ahead: its batches are drawn again"
    assert numbers(resumed, 1, skip=1) == whole[1:]


def test_the_place_is_the_yielded_batchs_where_one_is_loaded_ahead_to_know_the_last() -> None:
    class Unsized:
        """A loader of no length around one that knows its place."""

        def __init__(self) -> None:
            self.inner = PlaceLoader(Numbers(19), batch_size=4)
            self.state_dict, self.load_state_dict = self.inner.state_dict, self.inner.load_state_dict

        def __iter__(self) -> Any:
            return iter(self.inner)

    whole = numbers(Batches(Unsized(), batch_size=4))
    stopped = Batches(Unsized(), batch_size=4)
    next(stopped.epoch(0))
    resumed = Batches(Unsized(), batch_size=4)
    resumed.load_state_dict(stopped.state_dict())
    assert numbers(resumed, skip=1) == whole[1:]


def test_without_a_place_the_batches_are_drawn_again() -> None:
    """A checkpoint of an earlier version, say."""
    for kind in KINDS:
        whole = numbers(Batches(knowing(kind, Numbers(19)), batch_size=4), 2)
        assert numbers(Batches(knowing(kind, Numbers(19)), batch_size=4), 2, skip=2) == whole[2:]


def test_the_runners_own_order_is_the_samplers() -> None:
    ours = list(ResumableSampler(23, seed=5))
    assert flat(numbers(Batches(Numbers(23), batch_size=4, seed=5), 0)) == ours


def test_validation_in_the_midst_of_training_is_the_same_every_time() -> None:
    batches = Batches(knowing("ours", Numbers(9)), batch_size=4, shuffle=False)
    assert numbers(batches) == numbers(batches)
