"""A small model, saved a few times, and what is to be said of its checkpoints."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import nn

from expkit import CheckpointManager


def make(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss = model(torch.ones(3, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def save(manager: CheckpointManager, *steps: int, **extra: object) -> Path | None:
    path = None
    for step in steps:
        path = manager.save_checkpoint(step, *make(step), [0.5], {"lr": 0.1}, **extra)
    return path


def steps(manager: CheckpointManager) -> list[int]:
    return [entry["step"] for entry in manager.list_checkpoints()]


def flip_a_bit(path: Path) -> None:
    """Change one weight, and none of the padding between the parts of the archive."""
    with zipfile.ZipFile(path) as archive:
        weights = archive.read(next(name for name in archive.namelist() if name.endswith("data/0")))
    data = bytearray(path.read_bytes())
    data[data.index(weights)] ^= 1
    path.write_bytes(data)


def assert_same(left: object, right: object) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        same_bits = left.contiguous().reshape(-1).view(torch.uint8), right.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(*same_bits)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for item, other in zip(left, right, strict=True):
            assert_same(item, other)
    else:
        assert left == right
