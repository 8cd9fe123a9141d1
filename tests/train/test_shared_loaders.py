"""How processes share the batches of a loader of a task's own: each sample once, whatever a batch is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from expkit.dist import Dist
from expkit.errors import ConfigError
from train.data import Batches
from train.shares import batch_shares, is_shared_out


class Pair(NamedTuple):
    x: torch.Tensor
    number: list[int]


def collated(kind: Callable[[torch.Tensor], Any]) -> Callable[[list[int]], Any]:
    return lambda numbers: kind(torch.tensor(numbers))


KINDS: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Any], list[int]]]] = {
    "tensor": (lambda x: x, lambda batch: batch.tolist()),
    "tuple": (lambda x: (x.unsqueeze(1).expand(-1, 3), x), lambda batch: batch[1].tolist()),
    "array": (lambda x: (x.numpy(), x), lambda batch: batch[0].tolist()),
    "arrays": (lambda x: [x.numpy(), x.numpy()], lambda batch: batch[1].tolist()),
    "list": (lambda x: [x, x * 0.5], lambda batch: batch[0].tolist()),
    "dict": (lambda x: {"text": [f"{each}" for each in x.tolist()], "x": x}, lambda batch: [*map(int, batch["text"])]),
    "named tuple": (lambda x: Pair(x, x.tolist()), lambda batch: batch.number),
    "nested": (lambda x: ({"a": {"b": x}}, x.tolist(), torch.tensor(3.0), None), lambda batch: batch[1]),
    "texts": (lambda x: [str(each) for each in x.tolist()], lambda batch: [*map(int, batch)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "pieces"), [(22, 1), (25, 2)])
def test_every_sample_is_trained_on_once_in_an_epoch(kind: str, size: int, pieces: int) -> None:
    make, numbers_of = KINDS[kind]
    epochs = []
    for rank in range(3):
        loader = DataLoader(range(size), 6, shuffle=True, collate_fn=collated(make))  # type: ignore[arg-type]
        batches = Batches(loader, batch_size=64, seed=7, pieces=pieces, dist=Dist(rank, 3))
        epochs.append([*batches.epoch(1)])
    seen: list[int] = []
    for updates in zip(*epochs, strict=True):
        assert len({len(each.pieces) for each in updates}) == 1, "processes wait for each other in every piece"
        assert sum(weight for each in updates for _, weight in each.pieces) == pytest.approx(3)
        for group in zip(*(each.pieces for each in updates), strict=True):
            parts = [numbers_of(batch) for batch, weight in group if weight]
            assert all(type(batch) is type(make(torch.arange(2))) for batch, _ in group)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            total = sum(map(len, parts))
            for part, (_, weight) in zip(parts, [each for each in group if each[1]], strict=True):
                in_update = len(updates[0].pieces)
                assert weight == pytest.approx(len(part) * 3 / total / in_update)
            seen += [number for part in parts for number in part]
    assert sorted(seen) == [*range(size)]
    samples = [each.samples for each in epochs[0]]
    assert samples == [each.samples for each in epochs[2]] and sum(filter(None, samples)) == size


def test_a_process_without_a_sample_gets_a_stand_in() -> None:
    pieces = [batch_shares([torch.arange(2)], Dist(rank, 3)) for rank in range(3)]
    assert [count for _, count in pieces] == [2, 2, 2]
    assert sorted(weight for [(_, weight)], _ in pieces) == [0.0, 1.5, 1.5]
    assert all(len(batch) == 1 for [(batch, _)], _ in pieces)


class SharedOut:
    """A loader that gives process 1 of 2 its own batches."""

    shared_out = True

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter([torch.tensor([1, 3]), torch.tensor([5])])


def test_loaders_that_share_out_by_themselves_are_left_as_they_are() -> None:
    data: Any = range(10)
    found = []
    for rank in range(2):
        sampler = DistributedSampler(data, num_replicas=2, rank=rank, shuffle=True, seed=3)
        updates = [*Batches(DataLoader(data, 3, sampler=sampler), 64, dist=Dist(rank, 2)).epoch(0)]
        assert [(len(update.pieces), update.pieces[0][1], update.samples) for update in updates] == [(1, 1.0, None)] * 2
        found += [number for update in updates for number in update.pieces[0][0].tolist()]
    assert sorted(found) == [*data]
    updates = [*Batches(SharedOut(), 64, dist=Dist(1, 2)).epoch(0)]
    assert [update.pieces[0][0].tolist() for update in updates] == [[1, 3], [5]]
    assert not is_shared_out(DataLoader(data, 3))
    alone = DistributedSampler(data, num_replicas=1, rank=0)
    assert not is_shared_out(DataLoader(data, 3, sampler=alone)), "of one process, on two: their samples would repeat"


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        ((torch.zeros(3), torch.zeros(4)), "3, 4 rows"),
        (torch.tensor(1.0), "no rows"),
        ({"x": torch.zeros(0)}, "0 rows"),
    ],
)
def test_a_batch_whose_samples_are_not_clear_is_one_line(batch: Any, rows: str) -> None:
    with pytest.raises(ConfigError, match=rows) as error:
        batch_shares([batch], Dist(0, 2))
    assert "\n" not in str(error.value) and "`shared_out = True`" in str(error.value)
