"""scikit-learn's handwritten digits, and their split into training and validation, which all tasks share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from expkit.errors import ConfigError
from train.data import mix

__all__ = ["DigitsSplit", "check_n_val", "read_digits", "split_digits"]

_DIGITS = 1797
_SPLIT = 3


class DigitsSplit(NamedTuple):
    """Pixels, (n, 64) float32 in [0, 1], and labels, (n,) int64, of the digits of each part."""

    train: tuple[torch.Tensor, torch.Tensor]
    val: tuple[torch.Tensor, torch.Tensor]


def read_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pixels and labels of 1,797 digits of 8 x 8 pixels (UCI, Alpaydin and Kaynak 1998), unshuffled.

    The file comes with scikit-learn and is read without importing it, which would take a second.

    Returns:
        (1797, 64) float32 in [0, 1], and (1797,) int64.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ConfigError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return torch.from_numpy(table[:, :-1] / 16.0), torch.from_numpy(table[:, -1].astype(np.int64))


def split_digits(n_val: int) -> DigitsSplit:
    """Return the digits, `n_val` of them for validation: always the same ones, drawn once at random."""
    pixels, labels = read_digits()
    # The split must not depend on trainer.seed: runs with other seeds are compared on the same digits.
    order = torch.randperm(_DIGITS, generator=torch.Generator().manual_seed(mix(_SPLIT)))
    pixels, labels = pixels[order], labels[order]
    return DigitsSplit(train=(pixels[n_val:], labels[n_val:]), val=(pixels[:n_val], labels[:n_val]))


def check_n_val(n_val: int) -> None:
    """Refuse a number of validation digits that leaves none for training, or for validation.

    Raises:
        ConfigError: naming `task.data.n_val`.
    """
    if not 0 < n_val < _DIGITS:
        raise ConfigError(f"task.data.n_val={n_val}: there are 1,797 digits; keep some for training")
