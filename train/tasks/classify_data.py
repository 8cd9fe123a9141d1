"""Data to classify: images with labels, and shifts of the training images, a pure function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils.data import Dataset

from expkit.errors import ConfigError
from train.data import mix
from train.tasks.digits import check_n_val, split_digits

__all__ = ["LabelledData", "LabelledDigitsData", "LabelledImages"]

_SHIFT = 4


@runtime_checkable
class LabelledData(Protocol):
    """What the task `classify` needs of its data; the samples are pairs (input, label), the label an int64 scalar.

    Attributes:
        shape: of one input.
        classes: how many labels there are, from 0.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def classes(self) -> int: ...

    def train(self) -> Any:
        """Return the training samples, as `Task.train_data` does."""
        ...

    def val(self) -> Any:
        """Return the validation samples."""
        ...


class LabelledImages(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pairs (image, label), the image shifted by a few pixels, otherwise in every epoch; what comes in is 0.

    Args:
        images: (n, channels, height, width), float32.
        labels: (n,), int64.
        max_shift: pixels, at most, of a shift in each direction; all shifts are equally likely.
        seed: of the shifts.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, max_shift: int = 0, seed: int = 0) -> None:
        self.images = images
        self.labels = labels
        self.max_shift = max_shift
        self.seed = seed
        self.epoch = 0
        self._padded = nn.functional.pad(images, (max_shift,) * 4)

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose shifts come next."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.batch([index])
        return images[0], labels[0]

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (images, labels): (len(indices), channels, height, width) and (len(indices),)."""
        chosen = torch.as_tensor(indices)
        if not self.max_shift:
            return self.images[chosen], self.labels[chosen]
        height, width = self.images.shape[-2:]
        places = 2 * self.max_shift + 1
        keys = torch.tensor([mix(_SHIFT, self.seed, self.epoch, index) for index in indices])
        rows = (keys % places)[:, None] + torch.arange(height)
        columns = (keys // places % places)[:, None] + torch.arange(width)
        shifted = self._padded[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return shifted.movedim(-1, 1).contiguous(), self.labels[chosen]


@dataclass
class LabelledDigitsData:
    """scikit-learn's handwritten digits as images, (1, 8, 8) in [0, 1], with their labels; see train.tasks.digits.

    Validation images are never shifted.
    """

    max_shift: int = 0
    n_val: int = 360
    seed: int = 0

    shape: ClassVar[tuple[int, ...]] = (1, 8, 8)
    classes: ClassVar[int] = 10

    def __post_init__(self) -> None:
        if not (isinstance(self.max_shift, int) and 0 <= self.max_shift < 8):
            raise ConfigError(f"task.data.max_shift={self.max_shift}: a whole number of pixels is needed, from 0 to 7")
        check_n_val(self.n_val)

    def train(self) -> LabelledImages:
        """Return the training images and labels."""
        pixels, labels = split_digits(self.n_val).train
        return LabelledImages(pixels.view(-1, *self.shape), labels, self.max_shift, self.seed)

    def val(self) -> LabelledImages:
        """Return the validation images and labels, which never change."""
        pixels, labels = split_digits(self.n_val).val
        return LabelledImages(pixels.view(-1, *self.shape), labels)
