"""ResumableSampler in a loader of somebody's own: every sample once, whoever stops it, wherever it goes on."""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

import expkit
from expkit import ResumableSampler
from expkit.errors import ResumeError, UserError
from expkit.sampler import permutation


class Numbers(Dataset[int]):
    """0, 1, 2, ..., and what was loaded."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        self.loaded.append(index)
        return index


def loader(n: int, batch_size: int = 4, workers: int = 0, **options: Any) -> tuple[ResumableSampler, DataLoader[int]]:
    data = Numbers(n)
    sampler = ResumableSampler(data, seed=3, **options)
    return sampler, DataLoader(data, batch_size=batch_size, sampler=sampler, num_workers=workers)


def train(sampler: ResumableSampler, batches: Any, epochs: int, stop: int | None = None) -> list[list[int]]:
    """A loop as docs/library.md has it; it ends after `stop` batches."""
    seen: list[list[int]] = []
    for epoch in range(sampler.epoch, epochs):
        sampler.set_epoch(epoch)
        for batch in sampler.track(batches):
            seen.append(batch.tolist())
            if len(seen) == stop:
                return seen
    return seen


@functools.cache
def three_epochs(workers: int) -> list[list[int]]:
    """The batches of 15 samples, never stopped."""
    return train(*loader(15, workers=workers), epochs=3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stops", [[1], [3], [4], [5], [2, 4, 1], [9]])
def test_stopped_anywhere_it_goes_on_with_the_next_batch(stops: list[int], workers: int) -> None:
    """Batches that loading processes have fetched ahead are not lost; after 4 batches of 4 an epoch of 15 ends."""
    whole = three_epochs(workers)
    assert [len(batch) for batch in whole] == [4, 4, 4, 3] * 3
    seen: list[list[int]] = []
    state: Any = None
    for stop in [*stops, None]:
        sampler, batches = loader(15, workers=workers)
        if state is not None:
            sampler.load_state_dict(json.loads(json.dumps(state)))
        seen += train(sampler, batches, 3, stop)
        state = sampler.state_dict()
    assert seen == whole
    assert (state["epoch"], state["consumed"]) == (3, 0)


def test_no_sample_is_loaded_again() -> None:
    sampler, batches = loader(40)
    sampler.load_state_dict({"seed": 3, "epoch": 2, "consumed": 32, "length": 40})
    rest = train(sampler, batches, 3)
    assert [index for batch in rest for index in batch] == batches.dataset.loaded == permutation(40, 3, 2)[32:].tolist()


def test_a_place_deep_in_ten_million_samples_is_found_at_once() -> None:
    def first(consumed: int) -> float:
        sampler = ResumableSampler(10_000_000, shuffle=False)
        sampler.load_state_dict({"seed": 0, "epoch": 0, "consumed": consumed, "length": 10_000_000})
        began = time.perf_counter()
        assert next(iter(sampler)) == consumed
        return time.perf_counter() - began

    assert min(first(9_999_000) for _ in range(3)) < 0.5 + 3 * min(first(0) for _ in range(3))


def test_advance_says_the_same_as_track() -> None:
    tracked, batches = loader(15)
    expected = train(tracked, batches, 2, stop=6)
    sampler, batches = loader(15)
    seen = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for batch in batches:
            seen.append(batch.tolist())
            sampler.advance(len(batch))
            if len(seen) == 6:
                break
    assert seen == expected
    assert sampler.state_dict() == tracked.state_dict() == {"seed": 3, "epoch": 1, "consumed": 8, "length": 15}


def test_epochs_go_on_by_themselves_without_set_epoch() -> None:
    sampler, batches = loader(15)
    seen = [batch.tolist() for _ in range(3) for batch in sampler.track(batches)]
    assert seen == train(*loader(15), epochs=3)


def test_an_incomplete_batch_that_the_loader_leaves_out_ends_the_epoch() -> None:
    data = Numbers(10)
    sampler = ResumableSampler(data)
    batches = DataLoader(data, batch_size=4, sampler=sampler, drop_last=True)
    assert [len(list(sampler.track(batches))) for _ in range(3)] == [2, 2, 2]
    assert (sampler.epoch, sampler.consumed) == (3, 0)


def test_the_order_differs_from_epoch_to_epoch_and_seed_to_seed_and_leaves_the_generators_alone() -> None:
    before = torch.get_rng_state()
    orders = set()
    for seed in range(3):
        sampler = ResumableSampler(20, seed)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 9
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(ResumableSampler(5, shuffle=False)) == [0, 1, 2, 3, 4]


# --- many processes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [12, 13, 15, 3, 1])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_have_each_sample_once(n: int, world: int) -> None:
    shares = [list(ResumableSampler(n, rank=rank, world_size=world)) for rank in range(world)]
    assert sorted(itertools.chain(*shares)) == list(range(n))
    assert [len(share) for share in shares] == [
        len(ResumableSampler(n, rank=r, world_size=world)) for r in range(world)
    ]
    even = [list(ResumableSampler(n, rank=rank, world_size=world, drop_last=True)) for rank in range(world)]
    assert {len(share) for share in even} == {n // world}


def test_the_batches_of_all_ranks_make_up_the_batch_of_one_process() -> None:
    alone = train(*loader(32, batch_size=8), epochs=1)
    ranks = [train(*loader(32, batch_size=2, rank=rank, world_size=4), epochs=1) for rank in range(4)]
    assert [sorted(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)] == [sorted(batch) for batch in alone]


def test_another_number_of_processes_goes_on_at_the_same_place() -> None:
    two = [loader(24, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    seen = [train(*each, epochs=1, stop=2) for each in two]
    states = [sampler.state_dict() for sampler, _ in two]
    assert states[0] == states[1]
    for rank in range(4):
        sampler, batches = loader(24, batch_size=1, rank=rank, world_size=4)
        sampler.load_state_dict(states[0])
        seen.append(train(sampler, batches, 1))
    assert sorted(index for batches in seen for batch in batches for index in batch) == list(range(24))


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_who_does_not_say_what_was_consumed_is_told_when_it_is_saved() -> None:
    sampler, batches = loader(8)
    sampler.state_dict()
    list(batches)
    with pytest.raises(UserError, match=r"iterate over sampler.track\(loader\), or call sampler.advance"):
        sampler.state_dict()


def test_other_data_are_refused() -> None:
    state = ResumableSampler(8).state_dict()
    with pytest.raises(ResumeError, match="has 9 samples, and had 8"):
        ResumableSampler(9).load_state_dict(state)


@pytest.mark.parametrize(("arguments", "says"), [((0,), "empty"), ((4, 0, True, 2, 2), "rank 2 of 2 processes")])
def test_what_cannot_be_sampled_is_refused(arguments: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ResumableSampler(*arguments)


def test_a_loader_that_does_not_say_how_large_a_batch_is() -> None:
    class Strange(BatchSampler):
        def __init__(self, sampler: ResumableSampler) -> None:
            self.sampler = sampler

        def __iter__(self) -> Iterator[list[int]]:
            return iter([[index] for index in self.sampler])

    sampler = ResumableSampler(8)
    with pytest.raises(UserError, match=r"call sampler.advance\(len\(batch\)\)"):
        next(sampler.track(DataLoader(Numbers(8), batch_sampler=Strange(sampler))))
    single = DataLoader(Numbers(8), batch_size=None, sampler=ResumableSampler(8))
    assert len(list(single.sampler.track(single))) == 8


def test_it_is_exported() -> None:
    assert "ResumableSampler" in expkit.__all__
