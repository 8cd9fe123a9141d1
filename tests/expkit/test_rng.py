"""Generators go on where they were, so that a resume draws what would have come."""

from __future__ import annotations

import io
import random

import numpy as np
import torch

from expkit.rng import rng_state, seed_all, set_rng_state


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()]


def test_one_seed_decides_all_generators() -> None:
    seed_all(3)
    first = draw()
    seed_all(3)
    assert draw() == first
    seed_all(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_state_goes_through_a_checkpoint() -> None:
    seed_all(-1)
    draw()  # numpy and python now hold the second half of a pair of normal numbers
    buffer = io.BytesIO()
    torch.save(rng_state(), buffer)
    expected = [draw(), draw()]
    seed_all(99)
    buffer.seek(0)
    set_rng_state(torch.load(buffer, weights_only=True))
    assert [draw(), draw()] == expected


def test_deterministic_is_switched_on_and_off() -> None:
    seed_all(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    seed_all(0)
    assert not torch.are_deterministic_algorithms_enabled()
