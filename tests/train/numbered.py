"""Data sets of whole numbers, and which of them the batches of an epoch hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import (
    Dataset,
    IterableDataset,
)

from train.data import Batches


class Numbers(Dataset[int]):
    """0, 1, 2, ..."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        return index


class Stream(IterableDataset[int]):
    """The same without a length."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n))


class Unsized:
    """Batches of an unknown number."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (torch.tensor([number]) for number in range(self.n))


def numbers(batches: Batches, epoch: int = 0, skip: int = 0) -> list[list[int]]:
    """The samples of each update of an epoch, its pieces joined."""
    return [
        [number for piece, _ in step.pieces for number in piece.tolist()] for step in batches.epoch(epoch, skip=skip)
    ]


def flat(lists: Sequence[Sequence[int]]) -> list[int]:
    return [item for part in lists for item in part]


def lasts(batches: Batches, epoch: int = 0, skip: int = 0) -> list[bool]:
    return [step.last for step in batches.epoch(epoch, skip)]
