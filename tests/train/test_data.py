"""The batches of an epoch: all samples once, in an order that depends on (seed, epoch) alone, whoever loads them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    Subset,
)

from expkit.dist import Dist
from expkit.errors import ConfigError
from expkit.series import StepSeries
from tests.train.helpers import CPU, Regression
from tests.train.numbered import Numbers, Stream, Unsized, flat, lasts, numbers
from train.data import Batches, mix
from train.shares import StepBatches
from train.tasks.denoise_data import NoisyVectors, TwoHotVectors
from train.update import AVERAGED, Update

# --- a dataset with a length ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "workers"), [(1, 0), (7, 0), (12, 0), (13, 0), (13, 1)])
@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_every_sample_comes_once_per_epoch(n: int, pieces: int, workers: int) -> None:
    batches = Batches(Numbers(n), batch_size=4, pieces=pieces, num_workers=workers)
    for epoch in (0, 1):
        found = numbers(batches, epoch)
        assert sorted(flat(found)) == list(range(n))
        assert len(found) == batches.steps == math.ceil(n / 4)
        assert all(len(part) == 4 for part in found[:-1])


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        torch.rand(1)  # the global generator has no say in it
        return flat(numbers(Batches(Numbers(30), batch_size=4, seed=seed), epoch))

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(1, 2) != list(range(30))


def test_the_order_does_not_depend_on_how_the_samples_are_batched() -> None:
    orders = {
        tuple(flat(numbers(Batches(Numbers(30), batch_size, pieces=pieces))))
        for batch_size, pieces in ((2, 1), (4, 1), (4, 2), (30, 3), (60, 1))
    }
    assert len(orders) == 1


def test_the_global_generator_is_left_alone() -> None:
    """Also by DataLoader, which draws a seed for its workers: else a resume would give other dropout masks."""
    before = torch.get_rng_state()
    for workers in (0, 1):
        numbers(Batches(Numbers(9), batch_size=4, num_workers=workers))
    numbers(Batches(DataLoader(Numbers(9), batch_size=4, shuffle=True), batch_size=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_shuffling_the_order_is_the_data_sets() -> None:
    assert numbers(Batches(Numbers(5), batch_size=2, shuffle=False)) == [[0, 1], [2, 3], [4]]


def test_drop_last_leaves_out_the_incomplete_batch() -> None:
    batches = Batches(Numbers(11), batch_size=4, drop_last=True)
    assert [len(part) for part in numbers(batches)] == [4, 4]
    assert batches.steps == 2
    assert lasts(batches) == [False, True]
    assert {len(set(flat(numbers(batches, epoch)))) for epoch in range(5)} == {8}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("skip", [0, 1, 3, 4, 9])
def test_skipping_gives_exactly_the_rest(skip: int, workers: int) -> None:
    batches = Batches(Numbers(15), batch_size=4, pieces=2, num_workers=workers)
    assert numbers(batches, 3, skip=skip) == numbers(Batches(Numbers(15), batch_size=4), 3)[skip:]
    assert lasts(batches, 3, skip) == [False, False, False, True][skip:]


def test_what_is_skipped_is_not_loaded() -> None:
    loaded = []

    class Watched(Numbers):
        def __getitem__(self, index: int) -> int:
            loaded.append(index)
            return index

    rest = flat(numbers(Batches(Watched(15), batch_size=4), skip=3))
    assert loaded == rest


def test_samples_are_counted_over_all_processes() -> None:
    for world in (1, 2):
        batches = Batches(Numbers(10), batch_size=4, dist=Dist(0, world))
        assert [step.samples for step in batches.epoch(0)] == [4, 4, 2]


def test_ways_to_fetch_a_batch_agree() -> None:
    """One sample at a time, `__getitems__` (Subset has it), or a whole batch at once."""

    class Whole(Numbers):
        def batch(self, indices: Sequence[int]) -> torch.Tensor:
            return torch.tensor(indices)

        def __getitem__(self, index: int) -> int:
            raise AssertionError("the faster way is there")

    expected = numbers(Batches(Numbers(10), batch_size=4))
    assert numbers(Batches(Whole(10), batch_size=4)) == expected
    assert numbers(Batches(Subset(Numbers(20), range(10)), batch_size=4)) == expected
    assert numbers(Batches(list(range(10)), batch_size=4)) == expected


def test_each_epoch_is_announced_to_the_data_set() -> None:
    data = Numbers(4)
    seen: list[int] = []
    data.set_epoch = seen.append  # type: ignore[attr-defined]
    batches = Batches(data, batch_size=4)
    for epoch in (0, 1, 5):
        numbers(batches, epoch)
    assert seen == [0, 1, 5]


# --- workers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["noisy", "two_hot"])
def test_loading_processes_change_nothing(data: str) -> None:
    """The noise is fresh in each epoch and bit for bit the same from any number of processes."""
    clean = torch.rand(13, 6, generator=torch.Generator().manual_seed(0))
    made: Dataset[Any] = NoisyVectors(clean, 0.1, (3,)) if data == "noisy" else TwoHotVectors(13, 6, 2, 0.1, (3,))

    def epochs(workers: int) -> list[torch.Tensor]:
        batches = Batches(copy.deepcopy(made), batch_size=4, pieces=2, num_workers=workers)
        return [
            torch.cat([noisy for step in batches.epoch(epoch, skip=1) for (noisy, _), _ in step.pieces])
            for epoch in (0, 2)
        ]

    alone, helped = epochs(0), epochs(2)
    assert all(torch.equal(one, other) for one, other in zip(alone, helped, strict=True))
    assert not torch.equal(alone[0], alone[1])


# --- many processes ------------------------------------------------------------------------------------------------


def shares(data: Any, world: int, **options: Any) -> list[list[StepBatches]]:
    """What each rank gets, step by step."""
    return [list(Batches(data, dist=Dist(rank, world), **options).epoch(1)) for rank in range(world)]


@pytest.mark.parametrize("n", [16, 21, 23, 17])
@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_each_global_batch(world: int, pieces: int, n: int) -> None:
    """Together they have what one process alone would have at that step, each sample once."""
    alone = numbers(Batches(Numbers(n), batch_size=8), epoch=1)
    ranks = shares(Numbers(n), world, batch_size=8, pieces=pieces)
    assert {len(steps) for steps in ranks} == {len(alone)}
    for whole, *steps in zip(alone, *ranks, strict=True):
        assert flat([piece.tolist() for step in steps for piece, weight in step.pieces if weight]) == whole
        assert len({len(step.pieces) for step in steps}) == 1, "they wait for each other in every piece"
        assert sum(weight for step in steps for _, weight in step.pieces) / world == pytest.approx(1)
        assert len({step.last for step in steps}) == 1


@pytest.mark.parametrize("n", [5, 6, 7])
def test_every_rank_has_work_while_there_is_a_sample_for_each(n: int) -> None:
    sizes = [len(flat([piece.tolist() for piece, _ in step.pieces])) for [step] in shares(Numbers(n), 4, batch_size=8)]
    assert min(sizes) == 1
    assert max(sizes) == 2


@pytest.mark.parametrize("n", [8, 7, 5])
@pytest.mark.parametrize("pieces", [1, 2])
def test_the_loss_and_gradient_of_ranks_are_those_of_the_global_batch(n: int, pieces: int) -> None:
    """Averaging the ranks' gradients, as DistributedDataParallel does, and draining their losses together."""
    task = Regression(n)
    world = 2
    model = task.build_model()
    task.step(model, (task.x, task.y)).loss.backward()
    expected = [parameter.grad for parameter in model.parameters()]

    class Keep(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            self.kept = [p.grad.clone() for p in self.param_groups[0]["params"]]

    class Together(Dist):
        """The other rank's numbers are added here, in one process."""

        def sum(self, tensor: torch.Tensor) -> torch.Tensor:
            tables.append(tensor.clone())
            return tensor.copy_(sum(tables))

    tables: list[torch.Tensor] = []
    kept = []
    for rank, [step] in enumerate(shares(task.train_data(), world, batch_size=8, pieces=pieces)):
        rank_model = task.build_model()
        optimizer = Keep(rank_model.parameters())
        values, names, count = Update(optimizer, None, CPU)(task, rank_model, step.pieces)
        kept.append(optimizer.kept)
        series = StepSeries(names, CPU, averaged=AVERAGED)
        series.push(values, count)
        table, counts = series.drain(Together(rank, world))
    for gradient, *parts in zip(expected, *kept, strict=True):
        torch.testing.assert_close(sum(parts) / world, gradient)
    with torch.no_grad():
        whole = task.step(task.build_model(), (task.x, task.y))
    assert counts == [n]
    assert table["loss"] == pytest.approx([whole.loss.item()])
    assert table["absolute"] == pytest.approx([whole.sums["absolute"].item()])


# --- what cannot work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (Stream(3), {}, "an IterableDataset does not say how to batch it: return DataLoader"),
        (Numbers(0), {}, "the data set is empty"),
        (None, {}, "NoneType is neither a data set with a length nor an iterable of batches"),
        (Numbers(9), {"pieces": 3}, r"trainer.batch_size=4 is not divisible by .* = 3: try 3"),
        (Numbers(9), {"pieces": 8}, r"trainer.batch_size=4 is not divisible by .* = 8: try 8"),
        (Numbers(9), {"pieces": 2, "dist": Dist(0, 4)}, r"trainer.batch_size=4 is not divisible by .* = 8: try 8"),
        (Numbers(3), {"drop_last": True}, "trainer.batch_size=4 is more than the 3 samples there are"),
    ],
)
def test_data_that_cannot_work_is_refused_at_once(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Batches(data, batch_size=4, **options)


def test_a_data_set_without_a_length_is_refused() -> None:
    class Endless(Dataset[int]):
        def __getitem__(self, index: int) -> int:
            return index

    with pytest.raises(ConfigError, match="Endless is neither a data set with a length"):
        Batches(Endless(), batch_size=4)


@pytest.mark.parametrize("data", [Unsized(0), DataLoader(Stream(0))])
def test_a_loader_that_yields_nothing_is_refused_when_it_is_known(data: Any) -> None:
    with pytest.raises(ConfigError, match="the data loader yields no batch"):
        next(Batches(data, batch_size=4).epoch(0))


# --- seeds ---------------------------------------------------------------------------------------------------------


def test_mixed_seeds_differ_wherever_their_parts_differ() -> None:
    """Neighbours, swapped parts, longer tuples: no two alike, and each fits a generator."""
    parts = [(a, b) for a in range(30) for b in range(30)]
    seeds = {mix(*part) for part in parts} | {mix(*part, 0) for part in parts} | {mix(a) for a in range(30)}
    assert len(seeds) == 2 * 900 + 30
    assert all(0 <= seed < 2**63 for seed in seeds)
    flips = [(mix(5, 7) ^ mix(5, 7 ^ (1 << bit))).bit_count() for bit in range(64)]
    assert min(flips) > 12
    assert max(flips) < 51  # each bit of a part flips about half of 63 bits, 4 more or less
