"""Faults planted in training data, on purpose: what `debug=nan`, `debug=spike` and `debug=overfit` are made of.

What a fault changes is a pure function of (seed, epoch, index), as all training data are: so a run with a fault resumes
exactly, and one that goes past the place does not meet it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from expkit.errors import ConfigError
from expkit.sampler import permutation

__all__ = ["Fault", "FewSamples", "NotFinite", "WrongTargets", "planted"]

_IGNORED = -100  # what torch.nn.functional.cross_entropy leaves out

Pair = tuple[torch.Tensor, torch.Tensor]


class Fault:
    """Base class of what is wrong with training data of pairs (inputs, targets)."""

    def plant(self, data: Any) -> Any:
        """Return `data`, which has `batch(indices)`, with the fault in it."""
        raise NotImplementedError


def planted(data: Any, fault: Fault | None) -> Any:
    """Return training data with the fault in them, or as they are without one."""
    return data if fault is None else fault.plant(data)


def _check_count(key: str, value: int) -> None:
    if isinstance(value, bool) or value < 1:
        raise ConfigError(f"task.fault.{key}={value}: a whole number is needed, at least 1")


class _BadShard(Fault):
    """Base class of faults in the samples that some updates see.

    Args:
        step: the first of these updates, from 1, in a run that has skipped none.
        steps: how many there are.
        seed, batch_size, drop_last: of the order of samples, as in the trainer section.

    Raises:
        ConfigError: a number that cannot be.
    """

    def __init__(self, step: int, steps: int = 1, seed: int = 0, batch_size: int = 64, drop_last: bool = False) -> None:
        _check_count("step", step)
        _check_count("steps", steps)
        self.step, self.steps = step, steps
        self.seed, self.batch_size, self.drop_last = seed, batch_size, drop_last

    def plant(self, data: Any) -> Any:
        return _Shard(data, self)

    def places(self, size: int, epoch: int) -> dict[int, int]:
        """Return index -> place in its batch of the samples that are bad in `epoch`, from 0."""
        per_epoch = size // self.batch_size if self.drop_last else -(-size // self.batch_size)
        first = self.step - 1 - epoch * per_epoch
        updates = range(max(0, first), min(per_epoch, first + self.steps))
        if not updates:
            return {}
        order = permutation(size, self.seed, epoch)
        bad = order[updates.start * self.batch_size : updates.stop * self.batch_size].tolist()
        return {index: place % self.batch_size for place, index in enumerate(bad)}

    def spoil(self, data: Any, indices: Sequence[int], places: Sequence[int | None]) -> Pair:
        """Return a batch with the bad samples as they are to be; tensors of the data set must not be changed.

        Args:
            data: the data set without the fault.
            indices: of the samples.
            places: of each sample in its batch, None for one that is not bad.
        """
        raise NotImplementedError


class NotFinite(_BadShard):
    """One sample of each of these batches has inputs that are NaN.

    Tokens cannot be: there, no target of the batch counts (all are -100, which cross-entropy leaves out), and the loss
    is a mean over nothing.
    """

    def spoil(self, data: Any, indices: Sequence[int], places: Sequence[int | None]) -> Pair:
        inputs, targets = data.batch(indices)
        if inputs.is_floating_point():
            inputs = inputs.clone()
            inputs[torch.tensor([place == 0 for place in places])] = torch.nan
        else:
            targets = targets.clone()
            targets[torch.tensor([place is not None for place in places])] = _IGNORED
        return inputs, targets


class WrongTargets(_BadShard):
    """The samples of these batches have the targets of others, half the data set away: a shard put together wrong."""

    def spoil(self, data: Any, indices: Sequence[int], places: Sequence[int | None]) -> Pair:
        size = len(data)
        pairs = zip(indices, places, strict=True)
        others = [index if place is None else (index + size // 2) % size for index, place in pairs]
        return data.batch(indices)[0], data.batch(others)[1]


class FewSamples(Fault):
    """Only the first samples of the training data are there, and some have the target of another.

    Args:
        samples: how many.
        wrong: share of them that have the target of the sample before, from 0 to 1.

    Raises:
        ConfigError: a number that cannot be.
    """

    def __init__(self, samples: int, wrong: float = 0.0) -> None:
        _check_count("samples", samples)
        if not 0 <= wrong <= 1:
            raise ConfigError(f"task.fault.wrong={wrong}: a share is needed, from 0 to 1")
        self.samples, self.wrong = samples, wrong

    def plant(self, data: Any) -> Any:
        return _Few(data, min(self.samples, len(data)), self.wrong)


class _Faulty(Dataset[Pair]):
    """The first `size` samples of a data set."""

    def __init__(self, data: Any, size: int) -> None:
        self.data = data
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        inputs, targets = self.batch([index])
        return inputs[0], targets[0]

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)

    def batch(self, indices: Sequence[int]) -> Pair:
        found: Pair = self.data.batch(indices)
        return found


class _Few(_Faulty):
    """Of which a share have the target of the sample before."""

    def __init__(self, data: Any, size: int, wrong: float) -> None:
        super().__init__(data, size)
        self.wrong = wrong

    def batch(self, indices: Sequence[int]) -> Pair:
        # Spread evenly: index is one of them where the share of those before it reaches the next whole number.
        bad = [int((index + 1) * self.wrong) > int(index * self.wrong) for index in indices]
        others = [(index - 1) % len(self.data) if each else index for index, each in zip(indices, bad, strict=True)]
        return super().batch(indices)[0], super().batch(others)[1]


class _Shard(_Faulty):
    """A data set whose samples of some updates are bad."""

    def __init__(self, data: Any, fault: _BadShard) -> None:
        super().__init__(data, len(data))
        self.fault = fault
        self._bad = fault.places(self.size, 0)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self._bad = self.fault.places(self.size, epoch)

    def batch(self, indices: Sequence[int]) -> Pair:
        places = [self._bad.get(index) for index in indices]
        if all(place is None for place in places):
            return super().batch(indices)
        return self.fault.spoil(self.data, indices, places)
