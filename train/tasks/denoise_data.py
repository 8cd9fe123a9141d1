"""Data to denoise: clean vectors and noise, both a pure function of (seed, epoch, index).

Because no generator is carried from sample to sample, the same noise comes whatever the number of loading processes,
the order, or the place where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from expkit.errors import ConfigError
from train.data import mix
from train.tasks.digits import check_n_val, split_digits

__all__ = ["DigitsData", "NoisyVectors", "TwoHotData", "TwoHotVectors"]

_TRAIN, _VAL = 1, 2


class NoisyVectors(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pairs (noisy, clean) of float32 vectors of length d, made of a fixed set of clean ones.

    Args:
        clean: (n, d) clean vectors, or None where a subclass makes them.
        noise_variance: of the Gaussian noise on each coordinate.
        key: integers that tell this data set's noise from any other's.
        fresh: new noise in every epoch; False for validation, which must not change.
    """

    def __init__(self, clean: torch.Tensor, noise_variance: float, key: tuple[int, ...], fresh: bool = True) -> None:
        self.clean = clean
        self.noise_std = noise_variance**0.5
        self.key = key
        self.fresh = fresh
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.clean)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose noise comes next."""
        self.epoch = epoch if self.fresh else 0

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noisy, clean = self.batch([index])
        return noisy[0], clean[0]

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (noisy, clean), each (len(indices), d)."""
        clean = self.clean[torch.as_tensor(indices)]
        noise = torch.empty_like(clean)
        generator = torch.Generator()
        for row, index in enumerate(indices):
            generator.manual_seed(mix(*self.key, self.epoch, index))
            noise[row].normal_(0.0, self.noise_std, generator=generator)
        return noise.add_(clean), clean


class TwoHotVectors(NoisyVectors):
    """Pairs (noisy, clean) where the clean vector has ones at `s` distinct random places of `d`, fresh per epoch."""

    def __init__(self, n: int, d: int, s: int, noise_variance: float, key: tuple[int, ...], fresh: bool = True) -> None:
        super().__init__(torch.empty(0), noise_variance, key, fresh)
        self.n, self.d, self.s = n, d, s

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (noisy, clean), each (len(indices), d)."""
        clean = torch.zeros(len(indices), self.d)
        noisy = torch.empty_like(clean)
        generator = torch.Generator()
        for row, index in enumerate(indices):
            generator.manual_seed(mix(*self.key, self.epoch, index))
            places: set[int] = set()
            while len(places) < self.s:  # rejection: for s much smaller than d cheaper than a permutation
                places.update(torch.randint(self.d, (self.s - len(places),), generator=generator).tolist())
            clean[row, list(places)] = 1.0
            noisy[row].normal_(0.0, self.noise_std, generator=generator)
        return noisy.add_(clean), clean


@dataclass
class DigitsData:
    """scikit-learn's handwritten digits, 8 x 8 pixels in [0, 1], as vectors; see train.tasks.digits."""

    d: int = 64
    noise_variance: float = 0.1
    n_val: int = 360
    seed: int = 0

    def __post_init__(self) -> None:
        if self.d != 64:
            raise ConfigError(f"task.data.d={self.d}: a digit has 64 pixels; for other lengths use task/data=two_hot")
        _check_noise(self.noise_variance)
        check_n_val(self.n_val)

    def train(self) -> NoisyVectors:
        """Return the training pairs."""
        return NoisyVectors(split_digits(self.n_val).train[0], self.noise_variance, (self.seed, _TRAIN))

    def val(self) -> NoisyVectors:
        """Return the validation pairs, whose noise never changes."""
        return NoisyVectors(split_digits(self.n_val).val[0], self.noise_variance, (self.seed, _VAL), fresh=False)


@dataclass
class TwoHotData:
    """x* in {0,1}^d with exactly s ones; the input is x* plus N(0, noise_variance)."""

    d: int = 1024
    s: int = 2
    noise_variance: float = 0.005
    n_train: int = 30_000
    n_val: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        _check_noise(self.noise_variance)
        if not 0 < self.s <= self.d // 2:
            raise ConfigError(f"task.data.s={self.s}: between 1 and d/2 = {self.d // 2} ones are sparse")
        for key in ("n_train", "n_val"):
            if getattr(self, key) < 1:
                raise ConfigError(f"task.data.{key}={getattr(self, key)}: at least 1 sample is needed")

    def train(self) -> TwoHotVectors:
        """Return the training pairs."""
        return TwoHotVectors(self.n_train, self.d, self.s, self.noise_variance, (self.seed, _TRAIN))

    def val(self) -> TwoHotVectors:
        """Return the validation pairs, which never change."""
        return TwoHotVectors(self.n_val, self.d, self.s, self.noise_variance, (self.seed, _VAL), fresh=False)


def _check_noise(variance: float) -> None:
    if variance < 0:
        raise ConfigError(f"task.data.noise_variance={variance} is negative: a variance is 0 or more")
