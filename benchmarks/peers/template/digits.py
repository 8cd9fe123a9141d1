"""scikit-learn's handwritten digits with noise, as a data module."""

from __future__ import annotations

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

__all__ = ["Digits"]


class _Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pairs (noisy, clean) of vectors of 64 pixels in [0, 1]; the noise is drawn when a pair is."""

    def __init__(self, clean: torch.Tensor, noise_variance: float) -> None:
        self.clean = clean
        self.noise_std = noise_variance**0.5

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        clean = self.clean[index]
        return clean + self.noise_std * torch.randn_like(clean), clean


class Digits(L.LightningDataModule):
    """1,797 digits, `n_val` of them for validation."""

    def __init__(self, batch_size: int, noise_variance: float, n_val: int, num_workers: int) -> None:
        super().__init__()
        self.batch_size, self.noise_variance, self.n_val, self.num_workers = (
            batch_size,
            noise_variance,
            n_val,
            num_workers,
        )

    def setup(self, stage: str) -> None:  # noqa: ARG002 - "fit"
        """Read the digits."""
        pixels = torch.from_numpy(load_digits().data / 16.0).float()
        pixels = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))]
        self.train = _Noisy(pixels[self.n_val :], self.noise_variance)
        self.val = _Noisy(pixels[: self.n_val], self.noise_variance)

    def train_dataloader(self) -> DataLoader:
        """Return the training pairs."""
        return DataLoader(self.train, self.batch_size, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        """Return the validation pairs."""
        return DataLoader(self.val, self.batch_size, num_workers=self.num_workers)
